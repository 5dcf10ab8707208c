"""The proof is proved: the same comparisons distinguish each mutant from the real gate."""

import itertools
from collections.abc import Iterator
from datetime import timedelta

import pytest

from keyturn.errors import KeyturnError
from keyturn.policy import grounding
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.line import PolicyLine
from keyturn.rotations.contracts import Approval, JobOrder, RotationRequest
from keyturn.rotations.decisions import GroundedDecision, ProposedDecision
from tests.gate.comparison import differences, whole_differences, wrong_verdicts
from tests.gate.mutants import MUTANTS, gate_with
from tests.gate.oracle import Key
from tests.gate.partition import GENERATED, NOW, keys, line
from tests.support.cases import facts, request

RAW = (True, 1.0, 30.0, 0, "30", None, 30)
PROSE = line(
    "X-1",
    {"when": "prose"},
    wording="Keys of people who have left the company must be rotated.",
    applies_to=["service_account_key"],
    window_days=3,
    decide="person",
)
NOTES = "HR reports that the owner has left the company."


def found_by_comparison() -> Iterator[str]:
    """What the comparisons of the proof say of the gate as it is now."""
    pairs = [*((one,) for one in GENERATED), *itertools.combinations(GENERATED, 2)]
    for lines in pairs:
        for key in itertools.islice(keys(lines), 60):
            yield from differences(lines, key)
        for key in itertools.islice(keys(lines), 0, 60, 7):
            yield from wrong_verdicts(lines, key)
    for one, age in itertools.product(GENERATED, (-1, 20, 31, 400)):
        for key in keys((one,), observed=NOW - timedelta(days=age)):
            yield from differences((one,), key)
    stale = Key(kind="access_key", seen=NOW - timedelta(hours=5), stale=True)
    line_of_30 = GENERATED[6]
    for window, cited in itertools.product(RAW, (["S-1"], ["S-1", "P-999"], [], None)):
        answer = {"decision": "eligible", "rotation_window_days": window, "source_line_ids": cited, "quotes": []}
        yield from whole_differences((line_of_30,), stale, answer)


def found_by_orders() -> Iterator[str]:
    """Orders and quotes that must be refused, and are not."""
    lines = [
        line("P-7", {"when": "stale"}, applies_to=["service_account_key"], approval="required", approvers=["omar"])
    ]
    asked = request(user_id="luna", credential=facts(key_id="k"))
    order = order_of_answer(asked, lines, approver="omar")
    changed = {"stale": True, "age_days": 13, "key_id": "k"}
    tampered = {
        "another tenant": order.model_copy(update={"tenant_id": "other"}),
        "other evidence": order.model_copy(update={"credential": facts(**changed)}),
        "another basis": order.model_copy(update={"decision": order.decision.model_copy(update={"basis": "rule"})}),
        "no approval": order.model_copy(update={"approval": None}),
        "the requester's own approval": order_of_answer(asked, lines, approver="luna"),
        "a stranger's approval": order_of_answer(asked, lines, approver="mallory"),
        "an approval of another decision": order.model_copy(
            update={"approval": Approval(approver="omar", digest=f"v1:{'0' * 64}")}
        ),
    }
    for name, ordered in tampered.items():
        if _passes(ordered, Catalogue(lines)):
            yield f"{name} passes"
    if _passes(order, Catalogue(each.model_copy(update={"wording": "Another rule."}) for each in lines)):
        yield "a line that changed passes"
    if not _passes(order, Catalogue(lines)):
        yield "a sound order is refused"
    with_notes = request(credential=facts(key_id="k", notes=NOTES), policy_lines=(PROSE.ref,))
    for wording, evidence in (
        ("must be", "owner"),
        ("Keys of people who have", "the owner has moved"),
        ("left", "left"),
    ):
        quote = {"line_id": "X-1", "wording": wording, "evidence": evidence}
        if isinstance(_quoted(with_notes, quote), GroundedDecision):
            yield f"{quote} passes"
    sound = {
        "line_id": "X-1",
        "wording": "people who have left the company",
        "evidence": "the owner has left the company",
    }
    verdict = _quoted(with_notes, sound)
    if not isinstance(verdict, GroundedDecision) or not verdict.needs_approval:
        yield "sound quotes do not lead to a person"


def order_of_answer(asked: RotationRequest, lines: list[PolicyLine], *, approver: str) -> JobOrder:
    proposed = ProposedDecision(decision="eligible", rotation_window_days=30, source_line_ids=["P-7"])
    decision = grounding.ground(proposed, asked, lines)
    if not isinstance(decision, GroundedDecision):
        raise AssertionError("the mutant refuses a sound answer")
    return JobOrder(
        tenant_id=asked.tenant_id,
        user_id=asked.user_id,
        account_id=asked.account_id,
        credential=asked.credential,
        policy_lines=tuple(each.ref for each in lines),
        decision=decision,
        approval=Approval(approver=approver, digest=decision.digest),
        trace_id="t",
    )


def _passes(order: JobOrder, catalogue: Catalogue) -> bool:
    try:
        grounding.confirm(order, catalogue)
    except KeyturnError:
        return False
    return True


def _quoted(asked: RotationRequest, quote: dict[str, str]) -> object:
    proposed = ProposedDecision.model_validate(
        {"decision": "eligible", "rotation_window_days": 3, "source_line_ids": ["X-1"], "quotes": [quote]}
    )
    return grounding.ground(proposed, asked, [PROSE])


def test_our_own_gate_passes_every_comparison() -> None:
    assert list(found_by_comparison()) == []
    assert list(found_by_orders()) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_gate_that_is_wrong_in_one_way_is_caught(mutant: str) -> None:
    with gate_with(mutant):
        try:
            caught = next(itertools.chain(found_by_orders(), found_by_comparison()), None)
        except AssertionError as error:
            caught = str(error)
    assert caught is not None, f"{mutant}: nothing tells it from the gate"


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 45  # docs/explanation/gate.md says how many
    assert {"one_sided_gate", "cited_lines_only"} <= set(MUTANTS)
