"""A server that is compatible with OpenAI's: one's own, or a gateway. Its models and prices are its operator's."""

from keyturn.llm.provider import Provider
from keyturn.llm.providers.compatible.wire import WIRE

PROVIDER = Provider(
    name="compatible",
    wire=WIRE,
    url_variable="KEYTURN_COMPATIBLE_BASE_URL",
    key_variable="KEYTURN_COMPATIBLE_API_KEY",
    needs_key=False,
)
