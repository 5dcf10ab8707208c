"""The untrusted shapes: what a provider sent, before it was judged."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from keyturn.contracts import Contract
from keyturn.foreign_json import DECODER, expect_shallow, read_json
from keyturn.rotations.decisions import Rejection

# Called with the text so far whenever more of it came. Untrusted, and no answer yet: only the whole text is judged.
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

    def __post_init__(self) -> None:
        """Make the text one that can be stored and sent, whatever wire it came by."""
        object.__setattr__(self, "text", whole_text(self.text))


_HALF = re.compile("[\ud800-\udfff]")


def is_whole(text: str) -> bool:
    """Return whether a text has no half of a surrogate pair."""
    return _HALF.search(text) is None


def whole_text(text: str) -> str:
    """Return `text` with each pair of surrogates joined, as servers split one over two pieces, and halves replaced.

    JSON can write half of a pair, and UTF-8 cannot.
    """
    if is_whole(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


_UNFINISHED: dict[Finish, Rejection] = {
    "truncated": Rejection(reason="truncated_answer", explanation="The answer was cut off before its end."),
    "refused": Rejection(reason="model_refused", explanation="The model declined to answer."),
    "filtered": Rejection(reason="content_filtered", explanation="The provider's content filter blocked the answer."),
}
_MALFORMED = Rejection(
    reason="malformed_answer", explanation="The answer does not hold one JSON object of the fields asked for."
)

_WITH_MARKS = Rejection(
    reason="malformed_answer",
    explanation="The answer holds marks of the model's own template: it is not whole.",
)


# What models put before the one object that was asked for: their thoughts.
_THOUGHTS = re.compile(r"<(/?)(?:think|thinking|reasoning|thought|seed:think)>", re.IGNORECASE)
# Others' marks of the same: Magistral, Kimi, Cohere.
_OTHER_THOUGHTS = {
    **{"[THINK]": "<think>", "[/THINK]": "</think>"},
    **{"\u25c1think\u25b7": "<think>", "\u25c1/think\u25b7": "</think>"},
    **{"<|START_THINKING|>": "<think>", "<|END_THINKING|>": "</think>"},
}
_FINAL, _MESSAGE = "<|channel|>final", "<|message|>"  # gpt-oss writes in channels, of which the last is the answer
# Ends of turns that a server should have taken away.
_ENDS = tuple(f"<|{name}|>" for name in ("eot_id", "im_end", "end", "return", "eot", "endoftext", "END_RESPONSE"))
# What a chat template writes between turns: with it left, a text is no answer alone.
_TEMPLATE = re.compile(r"<\|[A-Za-z_]{2,32}\|>")
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
        text = _without_thoughts(completion.text)
        return _WITH_MARKS if _TEMPLATE.search(text) else text
    found = [
        (one, alone) for value, alone in _objects_in(completion.text) if (one := _read(value, proposal)) is not None
    ]
    different = {repr(one) for one, _ in found}  # said twice, it is one answer
    return found[0][0] if len(different) == 1 and any(alone for _, alone in found) else _MALFORMED


def _objects_in(text: str) -> Iterator[tuple[Any, bool]]:
    """Yield the whole text if it is JSON; else each object in it that is nested in no other.

    With whether it stands alone: within a sentence it is spoken of, as by a model that repeats what a question wants it
    to say.
    """
    try:
        yield read_json(text), True
    except ValueError:
        pass
    else:
        return
    text = _without_thoughts(text)
    try:
        expect_shallow(text)
    except ValueError:
        return
    place = looked = 0
    while (place := text.find("{", place)) >= 0 and looked < _MOST_OBJECTS:
        looked += 1
        begun = place
        try:
            found, place = DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):  # a quotation mark in prose may hide the depth behind it
            place += 1
        else:
            yield found, _ASIDE.search(text, max(0, begun - 120), begun) is None


_SAYS = r"(?:wants?|asks?|asked|t(?:ells?|old)|instruct(?:s|ed|ing)?|tries|requests?|demands?|claims?)\b"
# Before an object that is spoken of: what a question wants a model to say is not what it says.
_ASIDE = re.compile(
    # Who wants it said, and nothing of a key: "the rule demands it", and what the prompt asks for, are reasons.
    r"(?:\b(?:users?|customers?|requesters?|askers?|tickets?|questions?|requests?|messages?|e-?mails?|notes?|comments?|"
    r"texts?|inputs?|descriptions?|injections?|attackers?|someone|somebody)\s+(?:\w+\s+){0,3}"
    + _SAYS
    + r"(?!\s(?:whether|if)\b)(?![^.\n\r{}]*\b(?:keys?|credentials?|rotat\w*|leaked)\b)"
    # Or whom it wants to say so, unless that is what we have asked for.
    r"|(?<!\byou\s)\b(?:makes?|" + _SAYS + r")\s+(?:me|us|you|to|the\s+(?:model|assistant))\b)"
    # Up to the object, within one sentence, and within one clause where another has an answer of the model's own.
    r"(?:(?!,\s*(?:(?:so|and|but|which|hence|therefore)\s+)?(?:my|the|this|i|it)\b)[^.\n\r{}])*\Z"
    r"|\bsays?[\s:\"'`*]*\Z"
    r"|\b(?:injected|wrong|malicious|fake)\s+(?:answer|string|text|reply|instruction|output)s?\b[^.\n\r{}]*\Z"
    r"|\bnot\s+(?:output|answer|say|reply|return|write|follow)\b[^.\n\r{}]*\Z",
    re.IGNORECASE,
)
# What an answer is called where it is the only member of an object.
_WRAPPER = re.compile(
    r"(?:(?:final|my|your|the|rotation)_?)?(?:answer|result|decision|output|response|data|json|proposal|reply|draft|"
    r"verdict|arguments|parameters|properties|value|object|final)",
    re.IGNORECASE,
)


def _without_thoughts(text: str) -> str:
    """Return the text without the parts between the marks of thoughts; some models leave the first mark out."""
    for other, ours in _OTHER_THOUGHTS.items():
        text = text.replace(other, ours)
    if (final := text.rfind(_FINAL)) >= 0 and (begins := text.find(_MESSAGE, final)) >= 0:
        text = text[begins + len(_MESSAGE) :]
    while (ended := text.rstrip()).endswith(_ENDS):
        text = ended[: ended.rindex("<|")]
    kept: list[str] = []
    place = depth = 0
    for mark in _THOUGHTS.finditer(text):
        if mark[1] and not depth:  # an end without a beginning: all before it was thought
            kept.clear()
        elif not depth:
            kept.append(text[place : mark.start()])
        depth = max(depth - 1, 0) if mark[1] else depth + 1
        place = mark.end()
    # Thoughts that never end are no reason to read nothing: what is in them is judged as ever.
    return "".join(kept) + text[place:]


def _read(found: Any, proposal: type[Contract]) -> Contract | None:
    if isinstance(found, list) and len(found) == 1:  # the answer in a list, or as the only member of an object
        found = found[0]
    if isinstance(found, dict) and len(found) == 1 and not proposal.model_fields.keys() & found.keys():
        ((name, inner),) = found.items()
        found = inner if _WRAPPER.fullmatch(name) else None
    if not isinstance(found, dict):
        return None
    try:
        return proposal.model_validate({name: found[name] for name in proposal.model_fields if name in found})
    except ValueError:
        return None
