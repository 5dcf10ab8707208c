"""A provider of models with a wire format of its own: POST /answer with a question, answered by what was said.

Set it up by EXAMPLE_BASE_URL, EXAMPLE_API_KEY and KEYTURN_ROUTES=example:MODEL.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from keyturn.llm.classify import COMMON, row
from keyturn.llm.errors import QuotaExhausted, UnreadableResponse
from keyturn.llm.provider import Provider, WireFormat
from keyturn.llm.streams import Event
from keyturn.llm.wire import Completion, Usage
from keyturn.tasks.definition import Prompt


def payload(model: str, prompt: Prompt) -> dict[str, JsonValue]:
    """Return the body of a request."""
    return {"model": model, "rules": prompt.system, "question": prompt.user, "limit": prompt.max_output_tokens}


def completion(answer: Any, asked_model: str) -> Completion:
    """Return an answer in Keyturn's terms; raises UnreadableResponse if it is not in this format."""
    try:
        text, (tokens_in, tokens_out) = str(answer["said"]), answer["tokens"]
    except (TypeError, KeyError, ValueError):
        raise UnreadableResponse("the answer is not in the example's format") from None
    return Completion(text, "complete", "stop", asked_model, Usage(tokens_in, tokens_out))


def codes_of(error: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the codes of an error object."""
    yield error.get("code")


class Fold:
    """An answer in pieces; the example's comes whole, in one event."""

    def __init__(self) -> None:
        self.ended = self.finished = False
        self._answer: Any = None

    def add(self, event: Event) -> str:
        """Take an event; returns the text that it adds."""
        self._answer, self.ended, self.finished = event.data, True, True
        return str(event.data["said"])

    def answer(self) -> Any:
        """Return the whole."""
        return self._answer


PROVIDER = Provider(
    name="example",
    wire=WireFormat(
        path=lambda _model: "/answer",
        key_header=("x-example-key", ""),
        headers={},
        payload=payload,
        completion=completion,
        # What is this provider's own, before what every provider's errors mean.
        errors=(row(QuotaExhausted, codes="purse_empty"), *COMMON),
        codes_of=codes_of,
        request_id="x-example-request",
        stream_path=lambda _model: "/answer",
        stream_fields={},
        fold=Fold,
    ),
    url_variable="EXAMPLE_BASE_URL",
    key_variable="EXAMPLE_API_KEY",
)
