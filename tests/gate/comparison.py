"""One case, decided by the gate and by the oracle: what they differ in."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from keyturn.policy import grounding, support
from keyturn.policy.line import PolicyLine
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.decisions import GroundedDecision, ProposedDecision
from tests.gate.oracle import Key, accepts, expected
from tests.gate.partition import NOW, answers, dumped, facts_of


def differences(lines: Sequence[PolicyLine], key: Key, now: datetime = NOW) -> Iterator[str]:
    """Yield what gate and oracle support differently for a key, apart from any answer."""
    yield from unlike(lines, key, support.support_of(lines, facts_of(key), now), now)


def unlike(lines: Sequence[PolicyLine], key: Key, found: support.Support, now: datetime = NOW) -> Iterator[str]:
    """Yield in what `found`, the gate's support for a key, differs from what the oracle expects."""
    due = expected([dumped(one) for one in lines], key, now)
    pairs = (
        ("decision", due.decision, found.decision),
        ("binding lines", due.binding, {one.id for one in found.binding}),
        ("window", due.window, found.window_days),
        ("date", due.date, found.rotate_by),
        ("approval", due.approval, found.approval),
        ("approvers", due.approvers, set(found.approvers)),
    )
    for name, wanted, got in pairs:
        if wanted != got:
            yield f"{name}: {got!r}, and not {wanted!r}"


def wrong_verdicts(lines: Sequence[PolicyLine], key: Key, now: datetime = NOW) -> Iterator[str]:
    """Yield each answer of the right form on which gate and oracle differ."""
    plain = [dumped(one) for one in lines]
    due, found = expected(plain, key, now), support.support_of(lines, facts_of(key), now)
    prose = {one.id for one in lines if one.rule.when == "prose"}
    for decision, window, cited in answers(lines):
        if decision == "eligible" and prose & set(cited):
            continue  # judged by its quotes
        accepted = grounding.fault_of(_given(decision, window, cited), found) is None
        if accepted != accepts(plain, due, decision, window, list(cited)):
            yield f"{decision}, {window}, {cited}: {'accepted' if accepted else 'refused'}"


@lru_cache(maxsize=100_000)  # the same few thousand answers are compared with every support
def _given(decision: str, window: int | None, cited: tuple[str, ...]) -> grounding.Answer:
    return grounding.Answer(decision, window, frozenset(cited))  # type: ignore[arg-type]


def request_of(lines: Sequence[PolicyLine], key: Key) -> RotationRequest:
    return RotationRequest.model_construct(
        task="decide_rotation",
        tenant_id="default",
        user_id="luna",
        account_id="acct_1",
        policy_lines=tuple(one.ref for one in lines),
        credential=facts_of(key),
        question="May it be rotated?",
        trace_id="t",
    )


def whole_differences(
    lines: Sequence[PolicyLine], key: Key, answer: dict[str, Any], now: datetime = NOW
) -> Iterator[str]:
    """Judge a raw answer by the whole gate, and yield what it and the oracle differ in."""
    plain = [dumped(one) for one in lines]
    due = expected(plain, key, now)
    proposed = ProposedDecision.model_construct(**answer)
    verdict = grounding.ground(proposed, request_of(lines, key), lines, now)
    wanted = accepts(plain, due, answer["decision"], answer["rotation_window_days"], answer["source_line_ids"])
    if isinstance(verdict, GroundedDecision) != wanted:
        yield f"{answer}: {verdict.verdict}"
    if not isinstance(verdict, GroundedDecision):
        return
    yes = due.decision == "eligible"
    pairs = (
        ("decision", due.decision, verdict.decision),
        ("window", due.window, verdict.rotation_window_days),
        ("lines", due.binding, {ref.id for ref in verdict.source_lines} if yes else set()),
        ("date", due.date, verdict.rotate_by),
        ("approval", due.approval != "nobody", verdict.needs_approval),
        ("approvers", due.approvers, set(verdict.approvers)),
        ("any operator", due.approval == "operator", verdict.any_operator),
    )
    yield from (f"{name}: {got!r}, and not {want!r}" for name, want, got in pairs if got != want)
