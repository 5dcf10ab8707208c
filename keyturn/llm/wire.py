"""The untrusted shapes: what a provider sent, before anybody has judged it."""

import json
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from pydantic import ValidationError

from keyturn.contracts import ProposedDecision, Rejection

Finish = Literal["complete", "truncated", "refused", "filtered"]


@dataclass(frozen=True)
class Completion:
    """A provider's answer in our terms. `text` is untrusted; `model` is the one that says it answered."""

    text: str
    finish: Finish
    finish_reason: str
    model: str
    input_tokens: int | None
    output_tokens: int | None


def parse_answer(completion: Completion) -> ProposedDecision | Rejection:
    """Return what the model proposed, or why there is nothing to judge. Never raises for what a model wrote."""
    match completion.finish:
        case "truncated":
            return Rejection(reason="truncated_answer", explanation="The answer was cut off at the token limit.")
        case "refused":
            return Rejection(reason="model_refused", explanation="The model declined to answer.")
        case "filtered":
            return Rejection(reason="content_filtered", explanation="The provider's content filter held the answer.")
    try:
        return ProposedDecision.model_validate(
            json.loads(completion.text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        )
    except (ValueError, RecursionError, ValidationError):
        return Rejection(
            reason="malformed_answer", explanation="The answer is not one JSON object of the three fields asked for."
        )


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON leaves it open which of two equal keys counts; an answer that says two things says nothing.
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
