"""What a text claims of policy lines: which it names, and which figures of theirs. Pure."""

import re
from collections.abc import Sequence

from keyturn.policy.line import PolicyLine
from keyturn.policy.spans import days_named, plain

SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?=\S)[^.!?\n]*)*")

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


def has_figures_of_other_lines(text: str, lines: Sequence[PolicyLine], *others: int | None) -> bool:
    """Whether a sentence that names one line alone has one figure, and that of another one.

    A comparison has both.
    """
    for sentence in SENTENCE.findall(plain(text)):
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
