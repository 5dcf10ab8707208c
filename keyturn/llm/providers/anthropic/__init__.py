"""Anthropic: https://docs.anthropic.com/en/api."""

from keyturn.llm.provider import Provider
from keyturn.llm.providers.anthropic.batches import AnthropicBatches
from keyturn.llm.providers.anthropic.wire import WIRE

PROVIDER = Provider(
    name="anthropic",
    wire=WIRE,
    url_variable="ANTHROPIC_BASE_URL",
    key_variable="ANTHROPIC_API_KEY",
    base_url="https://api.anthropic.com",
    price_list="anthropic",
    telemetry_name="anthropic",
    batches=AnthropicBatches,
)
