"""What the rest of Keyturn knows of a provider: one object, in a folder of `keyturn/llm/providers/` or from outside."""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from keyturn.llm.classify import Row
from keyturn.llm.streams import Fold
from keyturn.llm.wire import Completion
from keyturn.tasks.definition import Prompt

if TYPE_CHECKING:
    import httpx

    from keyturn.llm.batches import BatchClient
    from keyturn.llm.endpoint import Endpoint


@dataclass(frozen=True)
class WireFormat:
    """How a provider writes requests, answers and errors.

    Attributes:
        path: from a model to the path below the base URL.
        key_header: the header that carries the key, and the text before the key.
        headers: whatever other headers the format demands.
        payload: from model and prompt to the request's body. Pure.
        completion: from the decoded body of a 200, and the model that was asked, to our terms; or UnreadableResponse.
        errors: the table of what its error responses mean.
        codes_of: where its error responses have their codes.
        request_id: the response header that names the request to the provider's support; empty if there is none.
        stream_path: from a model to the path that answers in pieces.
        stream_fields: what the body must have beside, for an answer in pieces.
        fold: makes the whole of the pieces.
        adapt: from a body and the names of fields that the server does not take to one that asks the same without them;
            None where every server of the format takes all.
    """

    path: Callable[[str], str]
    key_header: tuple[str, str]
    headers: Mapping[str, str]
    payload: Callable[[str, Prompt], dict[str, JsonValue]]
    completion: Callable[[Any, str], Completion]
    errors: tuple[Row, ...]
    codes_of: Callable[[Mapping[str, Any]], Iterator[Any]]
    request_id: str
    stream_path: Callable[[str], str]
    stream_fields: Mapping[str, JsonValue]
    fold: Callable[[], Fold]
    adapt: Callable[[dict[str, JsonValue], AbstractSet[str], Prompt], dict[str, JsonValue]] | None = None


@dataclass(frozen=True)
class Provider:
    """A provider of models, as routes, settings, `doctor`, prices, traces and the documentation need it.

    Attributes:
        name: as KEYTURN_ROUTES names it, and `format` in the file KEYTURN_ENDPOINTS.
        wire: its wire format.
        url_variable: the environment variable that overrides its base URL.
        key_variable: the environment variable with its API key.
        base_url: where it is asked if `url_variable` is not set; None if that must be set.
        needs_key: whether it refuses every call without a key.
        price_list: the provider's name in the bundled public prices (genai-prices), whose models are then all that it
            has; None if its models are its operator's own.
        telemetry_name: `gen_ai.provider.name` of OpenTelemetry's semantic conventions.
        batches: makes the client of its batches, of an HTTP client, an endpoint and a model; None if it has none.
    """

    name: str
    wire: WireFormat
    url_variable: str
    key_variable: str
    base_url: str | None = None
    needs_key: bool = True
    price_list: str | None = None
    telemetry_name: str = "_OTHER"
    batches: "Callable[[httpx.AsyncClient, Endpoint, str], BatchClient] | None" = None

    @property
    def required_variable(self) -> str:
        """The variable without which it cannot be asked."""
        return self.key_variable if self.needs_key else self.url_variable
