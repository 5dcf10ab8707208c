"""Google's Gemini API: https://ai.google.dev/api."""

from keyturn.llm.provider import Provider
from keyturn.llm.providers.gemini.wire import WIRE

PROVIDER = Provider(
    name="gemini",
    wire=WIRE,
    url_variable="GOOGLE_GEMINI_BASE_URL",
    key_variable="GEMINI_API_KEY",
    base_url="https://generativelanguage.googleapis.com",
    price_list="google",
    telemetry_name="gcp.gemini",
)
