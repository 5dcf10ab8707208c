"""What the policies' wording asks for, written a second time and another way. It imports nothing of the gate.

It reads policy lines as plain data (their dumped form), works on calendar arithmetic where the gate compares numbers of
microseconds, and asks for each line one question in words. Where the two differ, one of them misreads the policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

ONE_DAY = timedelta(days=1)
Line = Mapping[str, Any]  # a policy line, as its file states it


@dataclass(frozen=True)
class Key:
    """A credential, as a person would describe it."""

    kind: str
    seen: datetime
    stale: bool | None = None
    exposed: bool | None = None
    rotated: datetime | None = None
    used: datetime | None = None
    never_used: bool = False


@dataclass(frozen=True)
class Expected:
    """What the only acceptable answer is, and what follows from it."""

    decision: str
    binding: frozenset[str]
    window: int | None
    date: datetime | None
    first: frozenset[str]  # the lines that ask for it first
    approval: str  # nobody, listed, operator
    approvers: frozenset[str]


def answer_of(line: Line, key: Key, now: datetime) -> str:
    """Return yes, no or `?`: does this line ask for this key's rotation? Empty if it is not about such keys."""
    condition = line["rule"]["when"]
    if key.kind not in line["applies_to"]:
        return ""
    if condition == "never":
        return "no"
    too_late, too_early = now - key.seen > line["evidence_days"] * ONE_DAY, key.seen > now + timedelta(minutes=5)
    if too_early or (too_late and not (condition == "compromised" and key.exposed)):
        return "?"  # but an exposed key does not become secret again
    said: bool | None = None
    if condition in {"stale", "compromised"}:
        said = key.stale if condition == "stale" else key.exposed
    elif condition in {"age", "unused"}:
        since = start_of(condition, key)
        said = None if since is None else key.seen >= first_moment(line, since)
        if said is False and since is not None and now - key.seen > ONE_DAY and now >= first_moment(line, since):
            said = None  # it was not so far when it was seen, and a day later it may have been
    return {True: "yes", False: "no", None: "?"}[said]


def start_of(condition: str, key: Key) -> datetime | None:
    """Return from when age, or disuse, is counted."""
    if condition == "age":
        return key.rotated
    if key.used is not None:  # what was used before it was rotated is the credential before
        return key.used if key.rotated is None else max(key.used, key.rotated)
    return key.rotated if key.never_used else None


def first_moment(line: Line, since: datetime) -> datetime:
    """Return the first moment at which a line on age or disuse asks for the rotation."""
    rule = line["rule"]
    last_day: datetime = since + rule["days"] * ONE_DAY  # the moment at which so many days have passed
    if rule["operator"] == ">=":
        return last_day
    # "more than N days": where whole days count, when one more has passed; else the next moment that there is.
    return last_day + ONE_DAY if rule["truncation"] == "whole_days" else last_day + timedelta(microseconds=1)


def expected(lines: Sequence[Line], key: Key, now: datetime) -> Expected:
    """Return what the supplied lines ask for together."""
    answers = {line["id"]: answer_of(line, key, now) for line in lines}
    asking = [line for line in lines if answers[line["id"]] == "yes"]
    if asking:
        decision = "eligible"
    elif "?" in answers.values() or not any(answers.values()):
        decision = "not_specified"
    else:
        decision = "not_eligible"
    shortest: int | None = None
    date: datetime | None = None
    dates: dict[str, datetime] = {}
    for line in asking:
        days = line["window_days"]
        if days is not None and (shortest is None or days < shortest):
            shortest = days
        until = until_when(line, key, now)
        if until is not None:
            dates[line["id"]] = until
            date = until if date is None or until < date else date
    gates = [line for line in asking if line["approval"] == "required"]
    names = [name for line in gates for name in line["approvers"]]
    allowed = frozenset(name for name in names if all(name in line["approvers"] for line in gates))
    by = "listed" if gates else "operator" if any(line["decide"] == "person" for line in asking) else "nobody"
    first = frozenset(name for name, until in dates.items() if until == date)
    return Expected(decision, frozenset(line["id"] for line in asking), shortest, date, first, by, allowed)


def until_when(line: Line, key: Key, now: datetime) -> datetime | None:
    """Return by when a line that asks for a rotation wants it done."""
    if line["due"] == "at_once":
        return max(now, key.seen) + ONE_DAY
    if line["window_days"] is None:
        return None
    since = start_of(line["rule"]["when"], key) if line["rule"]["when"] in {"age", "unused"} else None
    began = key.seen if since is None else first_moment(line, since)
    days: int = line["window_days"]
    return began + days * ONE_DAY


def accepts(
    lines: Sequence[Line], due: Expected, decision: object, window: object, cited: Sequence[object] | object
) -> bool:
    """Return whether an answer says what is expected, with sources that carry it.

    Spelling decides nothing: capitals, blanks around a word, a single source that is no list, or none at all.
    """
    if cited is None or isinstance(cited, str):
        cited = [] if cited is None else [cited]
    by_name = {line["id"]: line for line in lines}
    if not isinstance(cited, list) or any(not isinstance(name, str) or name not in by_name for name in cited):
        return False
    if not isinstance(decision, str) or decision.strip().lower() != due.decision or isinstance(window, bool | float):
        return False
    if due.decision != "eligible":
        return window is None
    if not cited or any(name not in due.binding for name in cited) or window != due.window:
        return False
    if due.first and not any(name in due.first for name in cited):
        return False
    return due.window is None or any(by_name[name]["window_days"] == due.window for name in cited)
