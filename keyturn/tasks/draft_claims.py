"""What a draft claims of the key and of time, as far as code can read it. Pure."""

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta

from keyturn.contracts import Decision
from keyturn.policy.line import PolicyLine
from keyturn.policy.spans import dates_named, days_named, plain
from keyturn.tasks.line_claims import SENTENCE, days_supported, has_figures_of_other_lines

_NOT = r"(?:\s?not|n't)"
_YES = re.compile(
    r"\b(?:is|are|'s|'re)\s(?:\w+\s)?eligible\b"
    r"|\b(?:may|can|should|must|shall|has\sto|have\sto|needs?\sto|ought\sto|is\sto)\s(?:\w+\s)?(?:be\srotated|rotate)\b"
    r"|\brotation\sis\s(?:\w+\s)?(?:required|needed|due|mandatory|necessary)\b"
    r"|\b(?:is|are)\s(?:now\s)?(?:over)?due\b(?!\s(?:date|for\s(?:a\s)?review|to\b))",
    re.IGNORECASE,
)
_NO = re.compile(
    rf"\b(?:not|never)\s(?:\w+\s)?eligible\b|n't\s(?:\w+\s)?eligible\b|\bineligible\b"
    rf"|\b(?:may|ca|can|need|should|must|does|do|is|are|has|have|wo|shall){_NOT}(?:\s\w+){{0,3}}\s(?:be\srotated|rotate)\b"
    r"|\b(?:cannot|never)\sbe\srotated\b|\bno\srotation\sis\s(?:\w+\s)?(?:required|needed|due|necessary)\b"
    rf"|\brotation\sis(?:n't|\snot)\s(?:\w+\s)?(?:required|needed|due|necessary)\b"
    rf"|\b(?:is|are){_NOT}\s(?:yet\s)?due\b|\b(?:do|does){_NOT}\srequire\b"
    r"|\bno\sneed\sto\s(?:\w+\s)?(?:be\srotated|rotate)\b"
    r"|\b(?:nothing|none|neither)\b[^,;.!?\n]{0,30}\b(?:is|are|be)\s(?:due|rotated|required|needed)\b",
    re.IGNORECASE,
)
# What is spoken of: this key, which a reply calls so; or any, of which a rule speaks.
_ASIDE_WORD = r"(?!(?:an?|any|every|each|all|such|other|that|which|who|whose|says?|states?|requires?)\s)[\w'-]+,?\s"
_THINGS = r"(?:keys?|credentials?|passwords?)"
_SPOKEN_OF = re.compile(
    rf"\b(?P<this>(?:the|this|that|its)\s(?:{_ASIDE_WORD}){{0,8}}?(?:key|credential|password)\b|it\b|yours\b"
    # Several are the reader's if they are called so; "the keys that were exposed" are any.
    rf"|(?:all\s(?:of\s)?)?(?:your|its|(?:the|this|that)\s(?:service\s)?(?:account|user)'s)\s(?:{_ASIDE_WORD}){{0,8}}?"
    rf"{_THINGS}\b(?:,?\s(?:and|or)\s(?:\w+\s){{0,2}}{_THINGS}\b)*"
    r"|(?:(?:all|every|each)\s(?:of\s)?(?:the\s)?)?(?:keys?|credentials?|passwords?)\s(?:of|on|in|for)\s(?:this|your|that)\s(?:service\s)?(?:account|user)\b)"
    r"|\b(?:(?:an?|any|every|each|all|such|stale|exposed|old|unused|your\sother|the\sother)\s(?:[\w'-]+\s){0,4}?)?"
    r"(?:keys?|credentials?|passwords?)\b",
    re.IGNORECASE,
)
_PREDICATE = re.compile(r"\b(?:is|are|was|as|like|than|among)\s$", re.IGNORECASE)
# What of a sentence is only a condition or a question: "we do not know whether it is due".
_ASKED = re.compile(
    r"\b(?:whether|if|when|once|unless|until|before|only|in\scase|as\ssoon\sas)\b[^,;:]{0,80}$"
    r"|\b(?:cannot|can't|not|n't|nothing)\b[^,;:]{0,30}\b(?:say|says|mean|means|claim|claims)\b[^,;:]{0,40}$",
    re.IGNORECASE,
)
_ONLY = re.compile(r"\s(?:[\w']+\s){0,3}(?:when|once|if|only|after|unless)\b", re.IGNORECASE)
# What may be done before something, or anyway, need not be; what must be, must.
_AS_ONE_LIKES = re.compile(r"\s(?:[\w']+\s){0,3}(?:before|until|anyway)\b", re.IGNORECASE)
_MUST = re.compile(r"\b(?:must|should|shall|has|have|needs?|ought|is\sto)\b", re.IGNORECASE)


# How much time is left, and not how often or how old: what is had, what is left, and in which time to act.
_LEFT = re.compile(
    r"\b(?:you(?:'ve|\shave)(?:\sstill)?|there\s(?:is|are)|another|within\sthe\snext|in\sthe\snext)\s[^.!?,;\n]{1,24}"
    r"|\b(?:rotate|rotated|replace|replaced|do\sso|act)\s(?:\w+\s){0,3}?within\s[^.!?,;\n]{1,24}"
    r"|[^.!?,;\n]{1,24}\s(?:from\s(?:today|now)|left|remaining)\b",
    re.IGNORECASE,
)
_DATE = (
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}([./])\d{1,2}\2\d{4}"
    r"|\d{1,2}(?:st|nd|rd|th)?(?:\sof)?\s[a-z]{3,9}\.?,?\s\d{4}|[a-z]{3,9}\.?\s\d{1,2}(?:st|nd|rd|th)?,?\s\d{4})"
)
_DEADLINE = re.compile(
    rf"\b(?:by|until|till|not?\slater\sthan|on\sor\sbefore|due(?:\s(?:on|by))?|deadline(?:\sis)?"
    rf"|last\sday(?:\sfor\sit)?\sis|rotated?(?:\sit|\s(?:the|your)\skey)?\sbefore)[\s:*_`]+(?:the\s)?({_DATE})",
    re.IGNORECASE,
)


def contradicts(text: str, decision: Decision | None) -> bool:
    """Whether the draft plainly says the opposite of the decision. What it says in other words, a person has to see."""
    if decision is None:
        return False
    says_yes, says_no = _says(text)
    return says_no and not says_yes if decision == "eligible" else says_yes and not says_no


def states_decision(text: str) -> bool:
    """Whether the draft says of this key that it may or may not be rotated."""
    return any(_says(text))


def _says(text: str) -> tuple[bool, bool]:
    """Whether a text says of this key that it may be rotated, and that it may not."""
    says_yes = says_no = False
    for sentence in SENTENCE.findall(plain(text)):
        says_no = says_no or any(_is_of_this_key(sentence, one) for one in _NO.finditer(sentence))
        rest = _NO.sub(lambda found: " " * len(found[0]), sentence)
        says_yes = says_yes or any(_is_of_this_key(rest, one) for one in _YES.finditer(rest))
    return says_yes, says_no


def _is_of_this_key(sentence: str, found: re.Match[str]) -> bool:
    """Whether what was found is said of this key, and not of any, nor as a condition."""
    before = sentence[: found.start()]
    if _ASKED.search(before) or _ONLY.match(sentence, found.end()) or " only " in found[0]:
        return False
    if _AS_ONE_LIKES.match(sentence, found.end()) and not _MUST.search(found[0]):
        return False
    last = _last_spoken_of(before)
    if last is None:  # rotation is required; of others than keys, only a key is due
        return not found[0].lower().endswith("due") or "rotation" in found[0].lower()
    return last["this"] is not None


def _last_spoken_of(text: str) -> re.Match[str] | None:
    """Return what a text speaks of last: not what that is, or is like."""
    found = [one for one in _SPOKEN_OF.finditer(text) if one["this"] or not _PREDICATE.search(text[: one.start()])]
    return found[-1] if found else None


def names_other_figures(
    text: str,
    of_this_key: str,
    window: int | None,
    rotate_by: datetime | None,
    lines: Sequence[PolicyLine],
    at: datetime | None,
) -> bool:
    """Whether a text names a span of time or a date that was not given.

    Args:
        text: the whole draft.
        of_this_key: the draft without the wording of lines.
        window: of the decision, in days.
        rotate_by: when the rotation is due; None if that is not known.
        lines: the policy lines that were given.
        at: when it is judged; None if that is not known.
    """
    left = None if rotate_by is None or at is None else max(rotate_by - at, timedelta(0)).total_seconds() / 86_400
    supported = days_supported(lines, window)
    days_left = set() if left is None else {float(int(left)), float(int(left) + 1)}
    if days_named(text) - supported - days_left or has_figures_of_other_lines(text, lines, window):
        return True
    due = set() if rotate_by is None else {rotate_by.date()}
    deadlines = [_dates_in(one[1]) for one in _DEADLINE.finditer(plain(of_this_key))]
    if any(dates and not dates & due for dates in deadlines):
        return True
    # The window of a line that was passed long since is no time that is left.
    said = [one for one in _LEFT.finditer(plain(of_this_key)) if _is_said_to_the_reader(plain(of_this_key), one)]
    return left is not None and any(days > left + 1 for one in said for days in days_named(one[0]))


def _dates_in(text: str) -> set[date]:
    """Return what a date may mean: of 01.02.2027 and 01/02/2027, either order is somebody's."""
    figures = re.fullmatch(r"(\d{1,2})[./](\d{1,2})[./](\d{4})", text)
    if figures is None:
        return dates_named(text)
    one, other, year = figures.groups()
    return dates_named(f"{year}-{one}-{other}") | dates_named(f"{year}-{other}-{one}")


def _is_said_to_the_reader(text: str, found: re.Match[str]) -> bool:
    """Whether a time is this key's, and not that in which any key rotates."""
    begins = max(text.rfind(mark, 0, found.start()) for mark in ".!?\n") + 1
    last = _last_spoken_of(text[begins : found.start()])
    return last is None or last["this"] is not None
