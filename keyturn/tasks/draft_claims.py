"""What a draft claims of the key, of policy lines and of time, as far as code can read it. Pure."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from keyturn.contracts import Decision
from keyturn.policy.line import PolicyLine
from keyturn.policy.spans import dates_named, days_named, plain

_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?=\S)[^.!?\n]*)*")
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
_SPOKEN_OF = re.compile(
    r"\b(?P<this>(?:the|your|this|that|its)\s(?!other\b)(?:[\w'-]+\s){0,4}?(?:key|credential|password)\b|it\b|yours\b)"
    r"|\b(?:(?:an?|any|every|each|all|such|stale|exposed|old|unused|your\sother|the\sother)\s(?:[\w'-]+\s){0,4}?)?"
    r"(?:keys?|credentials?|passwords?)\b",
    re.IGNORECASE,
)
_PREDICATE = re.compile(r"\b(?:is|are|was|as|like|than|among)\s$", re.IGNORECASE)
# What of a sentence is only a condition or a question: "we do not know whether it is due".
_ASKED = re.compile(
    r"\b(?:whether|if|when|once|unless|until|before|only|in\scase|as\ssoon\sas)\b[^,;]{0,80}$", re.IGNORECASE
)
_ONLY = re.compile(r"\s(?:[\w']+\s){0,3}(?:when|once|if|only|after|unless|before|until|anyway)\b", re.IGNORECASE)

# What looks like a policy line's id: parts in capitals with dashes between them, a figure in one. Of what else looks
# so, a reply about a key may name these.
_LINE_ID = re.compile(r"(?<![\w-])[A-Z][A-Z0-9]*(?:-[A-Z0-9][A-Z0-9.]*)+(?![\w-])")
_NO_LINES = (
    "AES-",
    "CVE-",
    "ED-",
    "FIPS-",
    "CHG-",
    "CHANGE-",
    "INC-",
    "ISO-",
    "REQ-",
    "RFC-",
    "RSA-",
    "SHA-",
    "TLS-",
    "UTF-",
)
_CURVE = re.compile(r"P-(?:256|384|521)")
_TICKET = re.compile(
    r"\b(?:ticket|case|incident|issue|change)\s(?:number\s|no\.?\s)?#?[A-Z]{2,10}-\d+\b", re.IGNORECASE
)
_REGION = re.compile(r"(?:AF|AP|CA|CN|EU|IL|ME|MX|SA|US)-(?:GOV-)?[A-Z]+-\d")
# Lines of benchmarks as people write them, and lines by their number alone.
_BENCHMARK = re.compile(
    r"\b(?:CIS|PCI|NIST|ISO|SOC|HIPAA|FSBP|BSI)\b(?:[\s/-](?:[A-Z]{2,8}|[A-Za-z]*\d[\w.]*)\b){0,3}[\s/-][A-Za-z]*\.?\d[\w.]*|\bIAM\.\d+\b"
)
_BY_NUMBER = re.compile(r"\b(?:policy\s)?(?:line|rule|control)\s(?:number\s|no\.?\s)?#?(\d[\d.]*)\b", re.IGNORECASE)
_VERSIONED = re.compile(r"(?<![\w.-])([\w.-]{1,64})@(\d{1,5})(?![\w.])")
_NUMBER = re.compile(r"\d[\w.]*")

# How much time is left, and not how often or how old: what is had, what is left, and in which time to act.
_LEFT = re.compile(
    r"\b(?:you(?:'ve|\shave)(?:\sstill)?|there\s(?:is|are)|another|within\sthe\snext|in\sthe\snext)\s[^.!?,;\n]{1,24}"
    r"|\b(?:rotate|rotated|replace|replaced|do\sso|act)\s(?:\w+\s){0,3}?within\s[^.!?,;\n]{1,24}"
    r"|[^.!?,;\n]{1,24}\s(?:from\s(?:today|now)|left|remaining)\b",
    re.IGNORECASE,
)
_DATE = (
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}(?:st|nd|rd|th)?\s[a-z]{3,9}\.?,?\s\d{4}|[a-z]{3,9}\.?\s\d{1,2},?\s\d{4})"
)
_DEADLINE = re.compile(
    rf"\b(?:by|until|till|no\slater\sthan|due(?:\s(?:on|by))?|deadline(?:\sis)?|last\sday(?:\sfor\sit)?\sis"
    rf"|rotate(?:\sit|\s(?:the|your)\skey)?\sbefore)\s(?:the\s)?({_DATE})",
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
    for sentence in _SENTENCE.findall(plain(text)):
        says_no = says_no or any(_is_of_this_key(sentence, one) for one in _NO.finditer(sentence))
        rest = _NO.sub(lambda found: " " * len(found[0]), sentence)
        says_yes = says_yes or any(_is_of_this_key(rest, one) for one in _YES.finditer(rest))
    return says_yes, says_no


def _is_of_this_key(sentence: str, found: re.Match[str]) -> bool:
    """Whether what was found is said of this key, and not of any, nor as a condition."""
    before = sentence[: found.start()]
    if _ASKED.search(before) or _ONLY.match(sentence, found.end()) or " only " in found[0]:
        return False
    last = _last_spoken_of(before)
    if last is None:  # rotation is required; of others than keys, only a key is due
        return not found[0].lower().endswith("due") or "rotation" in found[0].lower()
    return last["this"] is not None


def _last_spoken_of(text: str) -> re.Match[str] | None:
    """Return what a text speaks of last: not what that is, or is like."""
    found = [one for one in _SPOKEN_OF.finditer(text) if one["this"] or not _PREDICATE.search(text[: one.start()])]
    return found[-1] if found else None


def names_other_lines(text: str, lines: Sequence[PolicyLine], account_id: str) -> bool:
    """Whether a text names a policy line, or a version of one, that was not given."""
    text = plain(text)
    known = {line.id.casefold() for line in lines}
    refs = {str(line.ref).casefold() for line in lines}
    for name, version in _VERSIONED.findall(text):
        if name.casefold() in known and f"{name}@{version}".casefold() not in refs:
            return True
    bare = _TICKET.sub(" ", text.replace(account_id, " "))
    named = {name.rstrip(".") for name in _LINE_ID.findall(bare) if any(map(str.isdigit, name))}
    # In small letters, with a blank, or by its number: what has the form of a line that was given.
    for line in lines:
        letters, dash, number = line.id.rpartition("-")
        if dash and letters.isalpha() and number.isdecimal():
            found = re.findall(rf"(?<![\w-]){letters}[ -](\d{{1,5}})(?![\w-])", bare, re.IGNORECASE)
            named |= {f"{letters}-{one}" for one in found}
    others = {
        name
        for name in named
        if not name.startswith(_NO_LINES) and not _REGION.fullmatch(name) and not _CURVE.fullmatch(name)
    }
    if any(name.casefold() not in known for name in others):
        return True
    return bool(_numbers_of_lines(bare, lines) - _known_numbers(lines))


def _numbers_of_lines(text: str, lines: Sequence[PolicyLine]) -> set[str]:
    """Return the numbers by which a text names lines: line 9, CIS AWS 1.14, IAM.3."""
    of_benchmarks = [_NUMBER.findall(one)[-1] for one in _BENCHMARK.findall(without_lines(text, lines))]
    return {one.rstrip(".") for one in (*_BY_NUMBER.findall(text), *of_benchmarks)}


def _known_numbers(lines: Sequence[PolicyLine]) -> set[str]:
    known: set[str] = set()
    for line in lines:
        text = f"{line.id} {line.wording} {line.source.benchmark} {line.source.release} {line.source.id}"
        known |= {one.rstrip(".") for one in _NUMBER.findall(text)} | set(re.split(r"[\s@-]", text))
    return known


def without_lines(text: str, lines: Sequence[PolicyLine]) -> str:
    """Return a text without the wording and the names of policy lines, in whatever letters."""
    text = plain(text)
    for known in (*(line.wording.rstrip(".") for line in lines), *(line.id for line in lines)):
        text = re.sub(re.escape(plain(known)), " ", text, flags=re.IGNORECASE)
    return text


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
    if any(dates_named(found) - due for found in _DEADLINE.findall(plain(of_this_key))):
        return True
    # The window of a line that was passed long since is no time that is left.
    said = [one for one in _LEFT.finditer(plain(of_this_key)) if _is_said_to_the_reader(plain(of_this_key), one)]
    return left is not None and any(days > left + 1 for one in said for days in days_named(one[0]))


def _is_said_to_the_reader(text: str, found: re.Match[str]) -> bool:
    """Whether a time is this key's, and not that in which any key rotates."""
    begins = max(text.rfind(mark, 0, found.start()) for mark in ".!?\n") + 1
    last = _last_spoken_of(text[begins : found.start()])
    return last is None or last["this"] is not None


def has_figures_of_other_lines(text: str, lines: Sequence[PolicyLine], *others: int | None) -> bool:
    """Whether a sentence that names one line alone has one figure, and that of another one.

    A comparison has both.
    """
    for sentence in _SENTENCE.findall(plain(text)):
        named = [line for line in lines if re.search(rf"(?<![\w-]){re.escape(line.id)}(?![\w-])", sentence)]
        if len(named) != 1 or _BENCHMARK.search(without_lines(sentence, named)):
            continue
        days = days_named(sentence.replace(named[0].id, " "))
        if len(days) == 1 and days - days_supported(named, *others):
            return True
    return False


def days_supported(lines: Sequence[PolicyLine], *others: int | None) -> set[float]:
    """Return the numbers of days that a text about `lines` may name: their windows, rules and wording."""
    days: set[float] = {number for number in others if number is not None}
    for line in lines:
        days |= days_named(line.wording)
        days |= {1} if line.due == "at_once" else set()
        days |= {number for number in (line.window_days, getattr(line.rule, "days", None)) if number is not None}
    return days
