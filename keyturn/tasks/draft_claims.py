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
    r"\b(?:is|are|'s|'re)\s(?:\w+\s)?eligible\b|\byou're\s(?:\w+\s)?eligible\b"
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
    rf"|\b(?:is|are){_NOT}\s(?:yet\s)?due\b",
    re.IGNORECASE,
)
# A rule is about keys, and not about this one.
_GENERAL = re.compile(
    r"\b(?:an?|any|every|each|all|such|stale|exposed)\s(?:[\w-]+\s){0,4}(?:keys?|credentials?|passwords?)\b"
    r"|\b(?:keys|credentials|passwords)\s(?:that|which|with|older|unused)\b",
    re.IGNORECASE,
)
_THIS = re.compile(r"\b(?:your|yours|this|it|its|you)\b", re.IGNORECASE)

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

# How much time is left, and not how often or how old.
_LEFT = re.compile(r"\b(?:within|in|you\shave|another|next|the\scoming)\s[^.!?\n]{1,40}", re.IGNORECASE)
_DEADLINE = re.compile(r"\b(?:by|until|till|no\slater\sthan|due|deadline)\b[^.!?\n]{1,40}", re.IGNORECASE)


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
        if _GENERAL.search(sentence) and not _THIS.search(sentence):
            continue
        says_no = says_no or _NO.search(sentence) is not None
        says_yes = says_yes or _YES.search(_NO.sub("", sentence)) is not None
    return says_yes, says_no


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
            found = re.findall(rf"(?<![\w-]){letters}[ -]?(\d{{1,5}})(?![\w-])", bare, re.IGNORECASE)
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
    """Return a text without the wording and the names of policy lines."""
    for known in (*(line.wording.rstrip(".") for line in lines), *(line.id for line in lines)):
        text = text.replace(known, " ")
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
    if days_named(text) - supported - days_left or has_figures_of_other_lines(text, lines):
        return True
    due = set() if rotate_by is None else {rotate_by.date()}
    if any(dates_named(found) - due for found in _DEADLINE.findall(plain(of_this_key))):
        return True
    # The window of a line that was passed long since is no time that is left.
    spans = {days for found in _LEFT.findall(plain(of_this_key)) for days in days_named(found)}
    return left is not None and any(days > left + 1 for days in spans)


def has_figures_of_other_lines(text: str, lines: Sequence[PolicyLine]) -> bool:
    """Whether a sentence that names one line alone has a figure of another one."""
    for sentence in _SENTENCE.findall(plain(text)):
        named = [line for line in lines if re.search(rf"(?<![\w-]){re.escape(line.id)}(?![\w-])", sentence)]
        if len(named) == 1 and days_named(sentence.replace(named[0].id, " ")) - days_supported(named):
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
