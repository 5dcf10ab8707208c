"""The untrusted shapes: what a provider sent, before anybody has judged it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from keyturn.contracts import Contract, Rejection

# Told the text so far whenever more of it came. Untrusted, and no answer yet: what it may become is judged at its end.
OnText = Callable[[str], None]
Finish = Literal["complete", "truncated", "refused", "filtered"]


@dataclass(frozen=True)
class Usage:
    """Tokens as the provider counted them; None where it did not say.

    `input_tokens` is all of the input. `cached_tokens` of it were read from a prompt cache and `cache_write_tokens`
    written to one: both have prices of their own. `output_tokens` includes what a model thought before it answered.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None

    @property
    def total(self) -> int | None:
        """Input and output together; None if either is unknown."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Completion:
    """A provider's answer in our terms. `text` is untrusted; `model` is the one that says it answered."""

    text: str
    finish: Finish
    finish_reason: str
    model: str
    usage: Usage
    request_id: str | None = None
    first_byte_ms: float | None = None


_UNFINISHED: dict[Finish, Rejection] = {
    "truncated": Rejection(reason="truncated_answer", explanation="The answer was cut off before its end."),
    "refused": Rejection(reason="model_refused", explanation="The model declined to answer."),
    "filtered": Rejection(reason="content_filtered", explanation="The provider's content filter held the answer."),
}
_MALFORMED = Rejection(
    reason="malformed_answer", explanation="The answer is not one JSON object of just the fields asked for."
)


def parse_answer(completion: Completion, proposal: type[Contract] | None) -> Contract | str | Rejection:
    """Return what the model proposed, or why there is nothing to judge. Never raises for what a model wrote.

    Args:
        completion: the provider's answer.
        proposal: the unchecked shape to read it into; None where plain text was asked for.
    """
    if completion.finish != "complete":
        return _UNFINISHED[completion.finish]
    if proposal is None:
        return completion.text
    try:
        return proposal.model_validate(
            json.loads(completion.text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        )
    except (ValueError, RecursionError):
        return _MALFORMED


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON leaves it open which of two equal keys counts; an answer that says two things says nothing.
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
