"""OpenAI: https://platform.openai.com/docs/api-reference."""

from keyturn.llm.provider import Provider
from keyturn.llm.providers.openai.batches import OpenAiBatches
from keyturn.llm.providers.openai.wire import WIRE

PROVIDER = Provider(
    name="openai",
    wire=WIRE,
    url_variable="OPENAI_BASE_URL",
    key_variable="OPENAI_API_KEY",
    base_url="https://api.openai.com/v1",
    price_list="openai",
    telemetry_name="openai",
    batches=OpenAiBatches,
)
