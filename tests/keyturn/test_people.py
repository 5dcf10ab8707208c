"""Names in one form: who writes a name another way is still the same person."""

import pytest

from keyturn.people import doubles, is_among, same_form
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.errors import ApprovalInvalid
from keyturn.policy.grounding import confirm
from keyturn.rotations.contracts import Approval
from tests.gate.partition import line
from tests.gate.test_mutants import order_of_answer
from tests.support.cases import facts, request


@pytest.mark.parametrize("other", ["Luna", "LUNA", "luna.", "luna,", "\uff4cuna", "luna:", "LuNa@"])
def test_case_width_and_trailing_marks_make_no_other_person(other: str) -> None:
    assert same_form(other) == same_form("luna")
    assert is_among(other, ["omar", "luna"])
    assert doubles(["omar", "luna", other]) == [other]


@pytest.mark.parametrize("other", ["luna2", "lun", "l.una", "una", "lun4"])
def test_other_names_are_other_people(other: str) -> None:
    assert not is_among(other, ["luna"])


@pytest.mark.parametrize("asker", ["omar", "OMAR", "Omar."])
def test_whoever_asked_with_a_capital_letter_cannot_approve_without_it(asker: str) -> None:
    """At the action's own boundary, too."""
    lines = [
        line("P-7", {"when": "stale"}, applies_to=["service_account_key"], approval="required", approvers=["omar"])
    ]
    ordered = order_of_answer(request(user_id=asker, credential=facts(key_id="k")), lines, approver="omar")
    with pytest.raises(ApprovalInvalid):
        confirm(ordered, Catalogue(lines))
    written = Approval(approver="OMAR", digest=ordered.decision.digest)
    sound = ordered.model_copy(update={"user_id": "luna", "approval": written})
    confirm(sound, Catalogue(lines))
