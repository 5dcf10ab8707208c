"""The untrusted shapes: what a provider sent, before anybody has judged it."""

import json
import re
from collections.abc import Callable, Iterator
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
    reason="malformed_answer", explanation="The answer does not hold one JSON object of the fields asked for."
)


# What models put around the one object that was asked for: their thoughts, and a fence.
_THOUGHTS = re.compile(r"<(think|thinking|reasoning)>.*?</\1>|^.*?</(?:think|thinking)>", re.DOTALL | re.IGNORECASE)
_MOST_OBJECTS = 32  # of a text that are looked at: an answer has one, and each look costs its length


def parse_answer(completion: Completion, proposal: type[Contract] | None) -> Contract | str | Rejection:
    """Return what the model proposed, or why there is nothing to judge. Never raises for what a model wrote.

    In a fence, with text around it, behind its thoughts or with further fields, an answer is read if exactly one JSON
    object of the right form is left: what is in it is judged as always.

    Args:
        completion: the provider's answer.
        proposal: the unchecked shape to read it into; None where plain text was asked for.
    """
    if completion.finish != "complete":
        return _UNFINISHED[completion.finish]
    if proposal is None:
        return _THOUGHTS.sub("", completion.text)
    read = [one for text in _objects_in(completion.text) if (one := _read(text, proposal)) is not None]
    return read[0] if len(read) == 1 else _MALFORMED


def _objects_in(text: str) -> Iterator[Any]:
    """Yield the whole text if it is JSON; else each object in it that stands in no other."""
    try:
        yield _DECODER.decode(text)
    except (ValueError, RecursionError):
        pass
    else:
        return
    text = _THOUGHTS.sub("", text)
    place = looked = 0
    while (place := text.find("{", place)) >= 0 and looked < _MOST_OBJECTS:
        looked += 1
        try:
            found, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
        else:
            yield found


def _read(found: Any, proposal: type[Contract]) -> Contract | None:
    if not isinstance(found, dict):
        return None
    try:
        return proposal.model_validate({name: found[name] for name in proposal.model_fields if name in found})
    except (ValueError, RecursionError):
        return None


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, for a decoder's `object_pairs_hook`; raises ValueError if it has a member twice.

    JSON leaves it open which of two equal keys counts; an answer that says two things says nothing.
    """
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=no_duplicates, parse_constant=_no_constant)
