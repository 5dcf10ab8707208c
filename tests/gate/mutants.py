"""Mutants of the gate, each wrong in one way: what a slip, or a change that seemed harmless, would turn it into."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from keyturn.canonical import digest_of
from keyturn.policy import applicability, grounding, quotes, support
from keyturn.policy.applicability import DAY, Reading
from keyturn.rotations.decisions import Rejection

_read, _threshold, _due = applicability.read, applicability.threshold, applicability.due
_approval, _with_binding, _supported = support._approval, support.with_binding, support.support_of
_fault_of_yes, _fault_of_no, _read_answer = grounding._fault_of_yes, grounding._fault_of_no, grounding.read_answer
Replaced = list[tuple[Any, str, Any]]


def _reading(change: Callable[[Reading], Reading]) -> Replaced:
    return [(support, "read", lambda line, facts, at=None: change(_read(line, facts, at)))]


def _unknown_is(status: Any) -> Replaced:
    return _reading(lambda one: one._replace(status=status) if one.status == "unknown" else one)


def _edge(change: Callable[[Any, Any, Any], int]) -> Replaced:
    return [(applicability, "threshold", change)]


def _lines_left_out(kept: Callable[[Sequence[Any]], Sequence[Any]]) -> Replaced:
    def forgetful(lines: Any, facts: Any, at: Any = None) -> Any:
        return _supported(kept(sorted(lines, key=lambda line: line.id)), facts, at)

    return [(support, "support_of", forgetful), (grounding, "support_of", forgetful)]


def _binding(change: Callable[[Any, Sequence[Any]], Any]) -> Replaced:
    def other(binding: Any, readings: Any, facts: Any, at: Any) -> Any:
        return change(_with_binding(binding, readings, facts, at), binding)

    return [(support, "with_binding", other), (grounding, "with_binding", other)]


def _without(reason: str) -> Replaced:
    """A gate that does not refuse for one reason."""

    def passes(fault: Any) -> Any:
        return None if isinstance(fault, Rejection) and fault.reason == reason else fault

    return [
        (grounding, "_fault_of_yes", lambda answer, found: passes(_fault_of_yes(answer, found))),
        (grounding, "_fault_of_no", lambda answer, found: passes(_fault_of_no(answer, found))),
    ]


def _only_cited(answer: Any, found: Any) -> Any:
    """The hole of before: everything is computed over the lines that the model cites."""
    kept = [line for line in found.binding if line.id in answer.cited]
    windows = [line.window_days for line in kept if line.window_days is not None]
    narrowed = found._replace(binding=tuple(kept), window_days=min(windows, default=None))
    return _fault_of_yes(answer, narrowed)


def _accepts_every_no(answer: Any, _found: Any) -> Any:
    """The other hole: a no has no effect, so why look at it."""
    return None if answer.window_days is None else Rejection(reason="unexpected_window", explanation="x")


def _loose_types(proposed: Any, found: Any) -> Any:
    window = proposed.rotation_window_days
    if isinstance(window, bool | float) and window == int(window):
        proposed = proposed.model_copy(update={"rotation_window_days": int(window)})
    return _read_answer(proposed, found)


def _unknown_sources(proposed: Any, found: Any) -> Any:
    known = {one.line.id for one in found.readings}
    if isinstance(proposed.source_line_ids, list):
        cited = [name for name in proposed.source_line_ids if name in known]
        proposed = proposed.model_copy(update={"source_line_ids": cited})
    return _read_answer(proposed, found)


def _union(binding: Any) -> Any:
    lists = [set(line.approvers) for line in binding if line.approval == "required"]
    return ("listed", tuple(sorted(set.union(*lists)))) if lists else _approval(binding)


def _one_list(binding: Any) -> Any:
    first = next((line for line in binding if line.approval == "required"), None)
    return ("listed", tuple(sorted(first.approvers))) if first else _approval(binding)


def _no_person(binding: Any) -> Any:
    by, names = _approval(binding)
    return ("nobody", ()) if by == "operator" else (by, names)


def _digest_without(*names: str) -> Replaced:
    def digest(covered: Mapping[str, Any]) -> str:
        return digest_of({name: value for name, value in covered.items() if name not in names})

    return [(grounding, "digest_of", digest)]


def _from_birth(line: Any, facts: Any, at: Any = None) -> Any:
    elapsed = {"age": facts.age, "unused": facts.unused_for}.get(line.rule.when) or timedelta(0)
    if line.due == "at_once" or line.window_days is None:
        return _due(line, facts, at)
    return facts.observed_at - elapsed + timedelta(days=line.window_days)


def _at_once_from_the_evidence(line: Any, facts: Any, at: Any = None) -> Any:
    return _due(line, facts, None if line.due == "at_once" else at)


def _cause_without(*names: str) -> Replaced:
    cause = applicability._cause

    def other(line: Any, facts: Any, condition: Any, at: Any) -> Any:
        found = cause(line, facts, condition, at)
        return "" if found in names else found

    return [(applicability, "_cause", other)]


def _stale_compromise() -> Replaced:
    def other(line: Any, facts: Any, condition: Any, at: Any) -> Any:
        if condition is not None and at is not None and at - facts.observed_at > timedelta(days=line.evidence_days):
            return "evidence_too_old"
        return cause(line, facts, condition, at)

    cause = applicability._cause
    return [(applicability, "_cause", other)]


def _decides(change: Callable[[str, Any, Any], str]) -> Replaced:
    decision = support._decision
    return [
        (support, "_decision", lambda binding, readings: change(decision(binding, readings), binding, readings)),
    ]


def _unused_is_age(rule: Any, facts: Any) -> Any:
    return facts.age if rule.when == "age" else facts.unused_for or facts.age


def _windows(choose: Callable[[list[int]], int]) -> Replaced:
    def other(found: Any, binding: Any) -> Any:
        windows = [line.window_days for line in binding if line.window_days is not None]
        return found._replace(window_days=choose(windows) if windows else None)

    return _binding(other)


MUTANTS: Mapping[str, Replaced] = {
    "one_sided_gate": [(grounding, "_fault_of_no", _accepts_every_no)],
    "cited_lines_only": [(grounding, "_fault_of_yes", _only_cited)],
    "more than is read as or more": _edge(lambda operator, cut, days: _threshold(">=", cut, days)),
    "or more is read as more than": _edge(lambda operator, cut, days: _threshold(">", cut, days)),
    "whole days are not cut": _edge(lambda operator, cut, days: _threshold(operator, "exact", days)),
    "exact days are cut": _edge(lambda operator, cut, days: _threshold(operator, "whole_days", days)),
    "an edge is a second late": _edge(lambda operator, cut, days: _threshold(operator, cut, days) + 1_000_000),
    "an edge is a microsecond early": _edge(lambda operator, cut, days: _threshold(operator, cut, days) - 1),
    "days are counted from one": _edge(lambda operator, cut, days: _threshold(operator, cut, days) + DAY),
    "the last line is forgotten": _lines_left_out(lambda lines: lines[:-1] if len(lines) > 1 else lines),
    "the first line is forgotten": _lines_left_out(lambda lines: lines[1:] if len(lines) > 1 else lines),
    "the first line that holds binds alone": _binding(lambda found, binding: found._replace(binding=found.binding[:1])),
    "the longest window binds": _windows(max),
    "the windows are added": _windows(sum),
    "the first line's window binds": _windows(lambda windows: windows[0]),
    "approvers of any list": [(support, "_approval", _union)],
    "approvers of the first list": [(support, "_approval", _one_list)],
    "no approval is asked for": [(support, "_approval", lambda binding: ("nobody", ()))],
    "a person is not asked": [(support, "_approval", _no_person)],
    "unknown does not hold": _unknown_is("does_not_hold"),
    "unknown holds": _unknown_is("holds"),
    "another kind does not hold": _reading(
        lambda one: one._replace(status="does_not_hold") if one.status == "other_kind" else one
    ),
    "no line of its kind is a no": _decides(
        lambda said, binding, readings: "not_eligible" if all(r.status == "other_kind" for r in readings) else said
    ),
    "one no outweighs an unknown": _decides(
        lambda said, binding, readings: (
            "not_eligible" if not binding and any(r.status == "does_not_hold" for r in readings) else said
        )
    ),
    "old evidence counts": _cause_without("evidence_too_old"),
    "what became due since it was seen does not count": [
        (applicability, "_may_be_over_by_now", lambda line, facts, since: False)
    ],
    "evidence of the future counts": _cause_without("evidence_in_future"),
    "a compromise heals with time": _stale_compromise(),
    "disuse falls back to age": [(applicability, "_elapsed", _unused_is_age)],
    "a window runs from birth": [(support, "due", _from_birth)],
    "at once is when it was seen": [(support, "due", _at_once_from_the_evidence)],
    "no source is needed": _without("missing_source"),
    "a line that does not hold may be cited": _without("rule_not_applicable"),
    "a window may be left unstated": _without("incomplete_sources"),
    "any window passes": _without("unsupported_window"),
    "a no may state a window": _without("unexpected_window"),
    "a no on the unknown passes": _without("unsupported_no"),
    "true is one, and 30.0 is 30": [(grounding, "read_answer", _loose_types)],
    "sources that were not supplied are passed over": [(grounding, "read_answer", _unknown_sources)],
    "the digest leaves the evidence out": _digest_without("evidence"),
    "the digest leaves the lines out": _digest_without("lines"),
    "the digest leaves the tenant out": _digest_without("tenant"),
    "the digest leaves the basis out": _digest_without("basis"),
    "an approval is not looked at": [(grounding, "_confirm_approval", lambda order: None)],
    "quotes are not looked at": [(grounding, "quotes_hold", lambda *_: True)],
    "one quoted word is enough": [(quotes, "LEAST_WORDS", 1)],
}


@contextmanager
def gate_with(mutant: str) -> Iterator[None]:
    """Make the gate wrong in one way for a while."""
    with ExitStack() as stack:
        for module, name, replacement in MUTANTS[mutant]:
            stack.enter_context(patch.object(module, name, replacement))
        yield
