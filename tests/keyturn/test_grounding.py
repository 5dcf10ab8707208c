"""The gate: what a model says counts only if it equals what the evidence and all supplied lines support."""

from datetime import timedelta
from typing import Any

import pytest

from keyturn.contracts import PolicyRef
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.policy.errors import ApprovalInvalid, DigestMismatch, UnknownPolicyLine
from keyturn.policy.grounding import confirm, ground, request_digest
from keyturn.policy.line import InProse, PolicyLine
from keyturn.policy.quotes import quotes_hold
from keyturn.policy.support import explain, support_of
from keyturn.rotations.contracts import Approval, JobOrder
from keyturn.rotations.decisions import GroundedDecision, ProposedDecision, Quote, Rejection
from tests.support.cases import NOW, facts, order, request
from tests.support.workers_for_tests import with_approval


def proposal(decision: Any = "eligible", window: Any = 30, sources: Any = ("P-7",)) -> ProposedDecision:
    cited = list(sources) if isinstance(sources, tuple) else sources
    return ProposedDecision(decision=decision, rotation_window_days=window, source_line_ids=cited)


def judged(catalogue: Catalogue, proposed: ProposedDecision, **changed: Any) -> GroundedDecision | Rejection:
    asked = request(**changed)
    return ground(proposed, asked, catalogue.resolve(asked.policy_lines))


def test_the_decision_for_p7_is_accepted(catalogue: Catalogue) -> None:
    """A stale service-account key is eligible under P-7 with its window of 30 days."""
    verdict = judged(catalogue, proposal())
    assert isinstance(verdict, GroundedDecision)
    assert (verdict.decision, verdict.rotation_window_days, str(verdict.source_lines[0])) == ("eligible", 30, "P-7@1")
    assert verdict.rotate_by == NOW + timedelta(days=30)


def test_a_window_of_90_days_for_p7_is_rejected(catalogue: Catalogue) -> None:
    """Valid JSON that contradicts the cited policy is no decision."""
    verdict = judged(catalogue, proposal(window=90))
    assert isinstance(verdict, Rejection)
    assert verdict.reason == "unsupported_window"


@pytest.mark.parametrize(
    ("proposed", "reason"),
    [
        (proposal(decision="approved"), "decision_not_allowed"),
        (proposal(decision=None), "decision_not_allowed"),
        (proposal(decision=["eligible"]), "decision_not_allowed"),
        (proposal(window=True), "window_not_an_integer"),
        (proposal(window="30"), "window_not_an_integer"),
        (proposal(window=30.0), "window_not_an_integer"),
        (proposal(window=[30]), "window_not_an_integer"),
        (proposal(window=None), "unsupported_window"),
        (proposal(window=0), "unsupported_window"),
        (proposal(window=-30), "unsupported_window"),
        (proposal(window=10**30), "unsupported_window"),
        (proposal(sources=()), "missing_source"),
        (proposal(sources=("P-999",)), "unknown_source"),
        (proposal(sources=("P-7", "P-999")), "unknown_source"),
        (proposal(sources=("P-7@2",)), "unknown_source"),
        (proposal(sources="P-9"), "unknown_source"),
        (proposal(sources=(7,)), "unknown_source"),
        (proposal(sources=None), "missing_source"),
        (proposal(sources={"P-7": 1}), "unknown_source"),
        # A no on a key that is due is one, whatever else is wrong with it: it is asked once more.
        (proposal(decision="not_eligible", window=30), "contradicts_evidence"),
        (proposal(decision="not_specified", window=30, sources=()), "contradicts_evidence"),
        (proposal(decision="not_eligible", window="30"), "contradicts_evidence"),
        (proposal(decision="not_eligible", window=None, sources=("P-7@1",)), "contradicts_evidence"),
        (proposal(decision="not_eligible", window=None, sources=None), "contradicts_evidence"),
    ],
)
def test_every_unsupported_answer_has_its_reason(catalogue: Catalogue, proposed: ProposedDecision, reason: str) -> None:
    """Whatever a model claims beyond the evidence is refused under a name that code can branch on."""
    verdict = judged(catalogue, proposed)
    assert isinstance(verdict, Rejection)
    assert verdict.reason == reason


@pytest.mark.parametrize("decision", ["Eligible", "ELIGIBLE", " eligible ", "eligible"])
@pytest.mark.parametrize("sources", [("p-7",), ("P-7.",), (" P-7 ",), ("P\u20117",), ("P-7@1",), ("P-7", "p-7"), "P-7"])
def test_an_answer_is_judged_by_what_it_says_and_not_by_its_spelling(
    catalogue: Catalogue, decision: str, sources: Any
) -> None:
    verdict = judged(catalogue, proposal(decision=decision, sources=sources))
    assert isinstance(verdict, GroundedDecision)
    assert [ref.id for ref in verdict.cited_lines] == ["P-7"]


@pytest.mark.parametrize("decision", ["Not_Eligible", "not eligible", "NOT-SPECIFIED", "not specified"])
def test_a_wrong_no_is_one_in_any_spelling(catalogue: Catalogue, decision: str) -> None:
    """So that it is asked once more."""
    verdict = judged(catalogue, proposal(decision=decision, window=None, sources=None))
    assert isinstance(verdict, Rejection)
    assert verdict.reason == "contradicts_evidence"


def test_lines_that_differ_in_their_letters_alone_are_two_lines(catalogue: Catalogue) -> None:
    one = catalogue.current("P-7")
    other = one.model_copy(update={"id": "p-7"})
    asked = request(policy_lines=(one.ref, other.ref))
    assert isinstance(ground(proposal(sources=("P-7",)), asked, [one, other]), GroundedDecision)
    assert isinstance(ground(proposal(sources=("P-7.",)), asked, [one, other]), Rejection)  # which of them?


def test_the_line_that_sets_the_date_is_cited(catalogue: Catalogue) -> None:
    """A model that has missed that the key was exposed has not judged it."""
    lines = [catalogue.current("P-7"), catalogue.current("P-EXPOSED")]
    asked = request(policy_lines=tuple(line.ref for line in lines), credential=facts(compromised=True))
    missed = ground(proposal(sources=("P-7",)), asked, lines, NOW)
    assert isinstance(missed, Rejection)
    assert missed.reason == "incomplete_sources"
    assert isinstance(ground(proposal(sources=("P-7", "P-EXPOSED")), asked, lines, NOW), GroundedDecision)


def test_words_in_notes_add_no_condition_to_a_key_that_is_due(catalogue: Catalogue) -> None:
    """A quoted line that needs a person would take a due key away from its rotation; it may make the date earlier."""
    rule = catalogue.current("P-7")
    words = rule.model_copy(
        update={
            "id": "OWN-1",
            "wording": "Keys whose owner has left the company must be rotated at once.",
            "rule": InProse(when="prose"),
            "decide": "person",
            "window_days": None,
            "due": "at_once",
        }
    )
    asked = request(
        policy_lines=(rule.ref, words.ref), credential=facts(notes="HR says that the owner has left the company.")
    )
    quote = {
        "line_id": "OWN-1",
        "wording": "owner has left the company",
        "evidence": "the owner has left the company",
    }
    answer = proposal(sources=("P-7", "OWN-1")).model_copy(update={"quotes": [quote]})
    verdict = ground(answer, asked, [rule, words], NOW)
    alone = ground(proposal(), asked, [rule, words], NOW)
    assert isinstance(verdict, GroundedDecision)
    assert isinstance(alone, GroundedDecision)
    assert (verdict.needs_approval, alone.needs_approval) == (False, False)
    assert verdict.rotate_by is not None
    assert alone.rotate_by is not None
    assert verdict.rotate_by < alone.rotate_by


@pytest.mark.parametrize("stale", [False, None])
def test_a_key_that_is_not_known_to_be_stale_is_not_eligible_under_p7(catalogue: Catalogue, stale: bool | None) -> None:
    """An unknown is not a yes."""
    verdict = judged(catalogue, proposal(), credential=facts(stale=stale))
    assert isinstance(verdict, Rejection)
    assert verdict.reason == "rule_not_applicable"


def test_a_line_for_another_kind_of_credential_bears_nothing(catalogue: Catalogue) -> None:
    """P-7 speaks of service-account keys only."""
    verdict = judged(catalogue, proposal(), credential=facts(kind="access_key"))
    assert isinstance(verdict, Rejection)
    assert verdict.reason == "rule_not_applicable"


@pytest.mark.parametrize(("decision", "stale"), [("not_eligible", False), ("not_specified", None)])
def test_a_no_needs_no_window_and_no_source(catalogue: Catalogue, decision: str, stale: bool | None) -> None:
    """It needs the evidence: what is known to be fresh for one, and what is not known for the other."""
    verdict = judged(catalogue, proposal(decision=decision, window=None, sources=()), credential=facts(stale=stale))
    assert isinstance(verdict, GroundedDecision)
    assert verdict.decision == decision
    assert verdict.rotate_by is None


@pytest.mark.parametrize(
    ("decision", "credential", "reason"),
    [
        ("not_eligible", {"stale": True}, "contradicts_evidence"),
        ("not_specified", {"stale": True}, "contradicts_evidence"),
        ("not_eligible", {"stale": True, "age_days": 900, "compromised": True}, "contradicts_evidence"),
        ("not_eligible", {"stale": None}, "unsupported_no"),
        ("not_specified", {"stale": False}, "unsupported_no"),
        ("not_eligible", {"kind": "access_key"}, "unsupported_no"),
    ],
)
def test_a_wrong_no_is_refused_as_a_wrong_yes_is(
    catalogue: Catalogue, decision: str, credential: dict[str, Any], reason: str
) -> None:
    """A careless or injected model loses no key that is due, and decides nothing that is not known."""
    verdict = judged(catalogue, proposal(decision, None, ()), credential=facts(**credential))
    assert isinstance(verdict, Rejection)
    assert verdict.reason == reason


def two_lines(catalogue: Catalogue) -> list[PolicyLine]:
    """Of 90 days; and of 45 days, which asks for an approval."""
    line = catalogue.current("CIS-GCP-5.0-1.8")
    stricter = {"id": "OWN-45", "window_days": 45, "approval": "required", "approvers": ("omar",)}
    return [line, line.model_copy(update=stricter)]


@pytest.mark.parametrize(
    ("window", "sources", "reason"),
    [
        (90, ("CIS-GCP-5.0-1.8",), "incomplete_sources"),
        (45, ("CIS-GCP-5.0-1.8",), "incomplete_sources"),
        (90, ("CIS-GCP-5.0-1.8", "OWN-45"), "unsupported_window"),
        (90, ("OWN-45",), "unsupported_window"),
        (None, ("OWN-45",), "unsupported_window"),
    ],
)
def test_a_line_that_the_model_leaves_out_binds_all_the_same(
    catalogue: Catalogue, window: int | None, sources: tuple[str, ...], reason: str
) -> None:
    """Citing the laxer line alone neither lengthens the window nor skips the approval."""
    lines = two_lines(catalogue)
    asked = request(policy_lines=tuple(line.ref for line in lines), credential=facts(age_days=200))
    refused = ground(proposal(window=window, sources=sources), asked, lines)
    assert isinstance(refused, Rejection)
    assert refused.reason == reason


def test_all_binding_lines_are_recorded_and_the_models_citations_beside_them(catalogue: Catalogue) -> None:
    """Window, approvers and lines follow from all that hold, whichever of them the model cites."""
    lines = two_lines(catalogue)
    asked = request(policy_lines=tuple(line.ref for line in lines), credential=facts(age_days=200))
    verdict = ground(proposal(window=45, sources=("OWN-45",)), asked, lines)
    assert isinstance(verdict, GroundedDecision)
    assert [str(ref) for ref in verdict.source_lines] == ["CIS-GCP-5.0-1.8@1", "OWN-45@1"]
    assert [str(ref) for ref in verdict.cited_lines] == ["OWN-45@1"]
    assert (verdict.rotation_window_days, verdict.needs_approval, verdict.approvers) == (45, True, ("omar",))


def test_where_no_line_covers_the_kind_the_explanation_names_the_kind_that_was_meant(catalogue: Catalogue) -> None:
    """A kind that was left out is found by reading the answer."""
    asked = request(policy_lines=(PolicyRef(id="AWS-FSBP-IAM.3", version=1),), credential=facts(age_days=900))
    verdict = ground(proposal("not_specified", None, ()), asked, catalogue.resolve(asked.policy_lines))
    assert isinstance(verdict, GroundedDecision)
    assert "They cover access_key" in verdict.explanation
    assert "service_account_key" in verdict.explanation


def test_evidence_that_is_too_old_settles_nothing_and_says_so(catalogue: Catalogue) -> None:
    """Neither a job nor a clean bill; only that a key was compromised stays true."""
    lines, later = catalogue.resolve(request().policy_lines), NOW + timedelta(days=31)
    for stale in (True, False):
        verdict = ground(proposal("not_specified", None, ()), request(credential=facts(stale=stale)), lines, later)
        assert isinstance(verdict, GroundedDecision)
        assert "31 days old" in verdict.explanation
    refused = ground(proposal(), request(), lines, later)
    assert isinstance(refused, Rejection)
    exposed = request(
        policy_lines=(PolicyRef(id="PCI-DSS-8.6.3", version=1),),
        credential=facts(kind="system_account_password", compromised=True),
    )
    still = ground(
        proposal(window=None, sources=("PCI-DSS-8.6.3",)), exposed, catalogue.resolve(exposed.policy_lines), later
    )
    assert isinstance(still, GroundedDecision)


@pytest.mark.parametrize(
    ("days_old", "since", "supported"),
    [
        (80, timedelta(days=29), "not_specified"),  # 109 by now, or it was rotated
        (80, timedelta(days=5), "not_eligible"),
        (90, timedelta(days=1), "not_eligible"),  # the next inventory finds it
        (90, timedelta(days=2), "not_specified"),
        (91, timedelta(days=29), "eligible"),
    ],
)
def test_a_key_that_may_have_become_due_since_it_was_seen_is_no_key_that_is_not_due(
    catalogue: Catalogue, days_old: int, since: timedelta, supported: str
) -> None:
    line = catalogue.current("CIS-AWS-5.0-1.13")
    key = facts(kind="access_key", age_days=None, stale=None, last_rotated_at=NOW - timedelta(days=days_old))
    found = support_of([line], key, NOW + since)
    assert found.decision == supported
    if supported == "not_specified":
        assert "by now the key may be over the limit: observe it again" in explain(found, key, NOW + since)


def test_an_age_in_days_decides_no_line_whose_limit_lies_within_that_day(catalogue: Catalogue) -> None:
    """Ninety days are up to 91: by its date such a key may be due under a line that counts to the moment."""
    exact, whole = catalogue.current("AWS-FSBP-IAM.3"), catalogue.current("CIS-AWS-5.0-1.13")
    for days, decided in ((89, "not_eligible"), (90, "not_specified"), (91, "eligible")):
        key = facts(kind="access_key", stale=None, age_days=days)
        assert support_of([exact], key, NOW).decision == decided
        assert support_of([whole], key, NOW).decision == ("eligible" if days == 91 else "not_eligible")
    # When it was used last is known to the moment: the age says nothing more of its disuse.
    unused = catalogue.current("CIS-AWS-4.0-1.12")
    used = facts(kind="access_key", age_days=300, last_used_at=NOW - timedelta(days=44, hours=23))
    assert support_of([unused], used, NOW).decision == "not_eligible"
    coarse = facts(kind="access_key", stale=None, age_days=90)
    assert "state the moment (last_rotated_at)" in explain(support_of([exact], coarse, NOW), coarse, NOW)


@pytest.mark.parametrize("window", [30, 0])
def test_a_no_where_nothing_is_due_states_no_window(catalogue: Catalogue, window: int) -> None:
    verdict = judged(catalogue, proposal("not_eligible", window, ()), credential=facts(stale=False))
    assert isinstance(verdict, Rejection)
    assert verdict.reason == "unexpected_window"


PROSE = PolicyLine.model_validate(
    {
        "id": "PR",
        "version": 1,
        "wording": "Keys of staff who left must be rotated within 7 days.",
        "applies_to": ["service_account_key"],
        "window_days": 7,
        "rule": {"when": "prose"},
        "decide": "person",
        "source": {"benchmark": "b", "release": "1", "id": "1"},
    }
)


def quoting(evidence: str, wording: str = "Keys of staff who left") -> ProposedDecision:
    quotes = [{"line_id": "PR", "wording": wording, "evidence": evidence}]
    return ProposedDecision(decision="eligible", rotation_window_days=7, source_line_ids=["PR"], quotes=quotes)


def quoted(proposed: ProposedDecision, at: timedelta | None = None, **stated: Any) -> GroundedDecision | Rejection:
    asked = request(policy_lines=(PROSE.ref,), credential=facts(**{"stale": None} | stated))
    return ground(proposed, asked, [PROSE], None if at is None else NOW + at)


@pytest.mark.parametrize("at", [timedelta(days=3_000), timedelta(hours=-1)], ids=["old", "of the future"])
def test_a_line_in_words_holds_by_no_evidence_that_is_old_or_of_the_future(at: timedelta) -> None:
    said, quote = "the owner left the company", quoting("the owner left the company")
    assert isinstance(quoted(quote, timedelta(0), notes=said), GroundedDecision)
    refused = quoted(quote, at, notes=said)
    assert isinstance(refused, Rejection)
    assert refused.reason == "rule_not_applicable"
    assert isinstance(quoted(proposal("not_specified", None, ()), at, notes=said), GroundedDecision)


@pytest.mark.parametrize(
    ("notes", "evidence"),
    [
        ("The key is non-compliant with the policy", "compliant with the policy"),
        ("a non\u2011exposed key in git", "exposed key in git"),
        ("used 1,200 days ago", "200 days ago"),
        ("used 1.5 days ago by it", "5 days ago by it"),
        ("the owner left the company's car", "left the company"),
    ],
)
def test_a_quote_does_not_end_within_a_word_or_a_number(notes: str, evidence: str) -> None:
    refused = quoted(quoting(evidence), notes=notes)
    assert isinstance(refused, Rejection)
    assert refused.reason == "unsupported_quote"
    whole = f"It is so: {evidence}, as it was said"
    assert isinstance(quoted(quoting(evidence), notes=whole), GroundedDecision)


@pytest.mark.parametrize(
    ("evidence", "holds"),
    [
        ("the credential is", False),
        ("the credential is not", False),
        ("used for 0 days", False),
        ("the credential was not used for 0 days", True),
        ("credential is not compromised", True),
        ("the kind of the credential is", False),
        ("credential is service_account_key", True),
    ],
)
def test_a_quote_of_a_fact_has_its_value_and_its_not(evidence: str, holds: bool) -> None:
    verdict = quoted(quoting(evidence), compromised=False, last_used_at=NOW)
    assert isinstance(verdict, GroundedDecision) is holds


@pytest.mark.parametrize(
    ("notes", "evidence", "holds"),
    [
        ("It is not true that the owner left the company.", "the owner left the company", False),
        ("No owner left the company in 2026.", "owner left the company", False),
        ("The owner left the company is false, he is here.", "the owner left the company", False),
        ("Has the owner left the company? We do not know.", "owner left the company", False),
        ("If the owner left the company, tell us.", "the owner left the company", False),
        ("We do not know much. The owner left the company.", "The owner left the company", True),
        ("the owner\u2019s account was closed on May 2", "the owner's account was closed", True),
        ("The owner left the company", "The owner left the company.", True),
        ("HR says: the owner left the company", "The owner left the company", True),
        ("the owner left\u00a0the company", "the owner left the company", True),
        ("The owner left the company, which is untrue.", "the owner left the company", False),
        ("It was claimed that the owner left the company.", "the owner left the company", False),
        ("The owner left the company, but this was refuted.", "the owner left the company", False),
        ("Nothing suggests the owner left the company.", "the owner left the company", False),
        ("We ruled out that the owner left the company.", "the owner left the company", False),
        ("The owner left the company. That is false.", "The owner left the company", False),
        ("The owner left the company. It was not.", "The owner left the company", False),
        ("No doubt: the owner left the company.", "the owner left the company", True),
        ("The owner left the company, and nobody has the key.", "the owner left the company", True),
        ("The owner left the company. It is not in use.", "the owner left the company", True),
        ("Owner left. He was Omar.", "Owner left", True),
        ("Owner left. He was Omar.", "Owner", False),
    ],
)
def test_a_quote_says_what_its_sentence_says(notes: str, evidence: str, holds: bool) -> None:
    line = with_words("Keys of staff who left must be rotated, except break-glass keys.")
    quote = Quote(line_id=line.id, wording="keys of staff who left", evidence=evidence)
    assert quotes_hold([quote], [line], facts(notes=notes)) is holds


def with_words(wording: str) -> PolicyLine:
    """A line in words only."""
    changed = {"id": "OWN-1", "wording": wording, "rule": InProse(when="prose"), "decide": "person"}
    return load_catalogue().current("P-7").model_copy(update=changed)


def test_disuse_is_counted_from_the_last_rotation_if_that_was_later() -> None:
    """Where use is stated by account, a rotation would make the next one due at once, and overdue since years ago."""
    used = NOW - timedelta(days=100)
    assert facts(age_days=None, last_rotated_at=NOW - timedelta(days=1), last_used_at=used).unused_for == timedelta(
        days=1
    )
    assert facts(age_days=300, last_used_at=used).unused_for == timedelta(days=100)
    assert facts(age_days=3, last_used_at=used).unused_for == timedelta(days=3)
    assert facts(age_days=None, last_used_at=used).unused_for == timedelta(days=100)


def test_evidence_of_the_future_settles_nothing(catalogue: Catalogue) -> None:
    """A clock that is an hour ahead at its source decides nothing until it is fixed."""
    lines = catalogue.resolve(request().policy_lines)
    verdict = ground(proposal("not_specified", None, ()), request(), lines, NOW - timedelta(hours=1))
    assert isinstance(verdict, GroundedDecision)
    assert "observed in the future" in verdict.explanation


def test_a_real_line_that_was_not_supplied_cannot_be_cited(catalogue: Catalogue) -> None:
    """Only the evidence of this request counts, not all that the catalogue holds."""
    verdict = judged(catalogue, proposal(window=90, sources=("CIS-GCP-5.0-1.8",)), credential=facts(age_days=200))
    assert isinstance(verdict, Rejection)
    assert verdict.reason == "unknown_source"


def test_the_strictest_of_several_windows_binds(catalogue: Catalogue) -> None:
    """With P-7 (30 days) and CIS (90 days) both cited, 90 is refused and 30 accepted."""
    both = (PolicyRef(id="P-7", version=1), PolicyRef(id="CIS-GCP-5.0-1.8", version=1))
    cited = ("P-7", "CIS-GCP-5.0-1.8")
    old = facts(age_days=200)
    refused = judged(catalogue, proposal(window=90, sources=cited), policy_lines=both, credential=old)
    accepted = judged(catalogue, proposal(window=30, sources=cited), policy_lines=both, credential=old)
    assert isinstance(refused, Rejection)
    assert isinstance(accepted, GroundedDecision)


def test_passwords_of_people_rotate_only_on_compromise(catalogue: Catalogue) -> None:
    """NIST SP 800-63B forbids periodic changes, so age alone bears nothing, and a window none either."""
    line = (PolicyRef(id="NIST-800-63B-PASSWORDS", version=1),)
    cited = ("NIST-800-63B-PASSWORDS",)
    old = facts(kind="user_password", stale=True, age_days=2_000)
    exposed = facts(kind="user_password", compromised=True)
    refused = judged(catalogue, proposal(window=None, sources=cited), policy_lines=line, credential=old)
    invented = judged(catalogue, proposal(window=90, sources=cited), policy_lines=line, credential=exposed)
    accepted = judged(catalogue, proposal(window=None, sources=cited), policy_lines=line, credential=exposed)
    assert isinstance(refused, Rejection)
    assert refused.reason == "rule_not_applicable"
    assert isinstance(invented, Rejection)
    assert invented.reason == "unsupported_window"
    assert isinstance(accepted, GroundedDecision)


def test_an_explanation_repeats_nothing_that_the_model_wrote(catalogue: Catalogue) -> None:
    """Model text may hold anything, so what is recorded and shown is ours."""
    planted = "sk-live-7777"
    for proposed in (proposal(decision=planted), proposal(window=planted), proposal(sources=(planted,))):
        verdict = judged(catalogue, proposed)
        assert isinstance(verdict, Rejection)
        assert planted not in verdict.model_dump_json()


def test_a_line_that_asks_for_approval_says_so(catalogue: Catalogue) -> None:
    """The gate learns from the verdict, not from the catalogue, that an approval is needed."""
    line = catalogue.current("P-7").model_copy(update={"approval": "required"})
    verdict = ground(proposal(), request(), [line])
    assert isinstance(verdict, GroundedDecision)
    assert verdict.needs_approval


def changed_catalogue(catalogue: Catalogue, **changed: Any) -> Catalogue:
    lines = [PolicyLine.model_validate(line.model_dump()) for line in catalogue]
    return Catalogue(line.model_copy(update=changed) if line.id == "P-7" else line for line in lines)


def test_an_order_is_confirmed_as_long_as_nothing_changed(catalogue: Catalogue) -> None:
    """The action's own check accepts what grounding gave."""
    confirm(order(), catalogue)


@pytest.mark.parametrize("changed", [{"window_days": 31}, {"wording": "Keys may rotate."}, {"approval": "required"}])
def test_a_policy_that_changed_before_the_job_refuses_the_order(catalogue: Catalogue, changed: dict[str, Any]) -> None:
    """Even without a new version: the digest covers the line's content."""
    with pytest.raises(DigestMismatch):
        confirm(order(), changed_catalogue(catalogue, **changed))


def test_a_policy_version_that_is_gone_refuses_the_order(catalogue: Catalogue) -> None:
    """A decision under version 1 creates nothing under version 2."""
    with pytest.raises(UnknownPolicyLine, match="P-7@1 was asked for, but this catalogue has P-7@2"):
        confirm(order(), changed_catalogue(catalogue, version=2))


def test_evidence_that_changed_before_the_job_refuses_the_order(catalogue: Catalogue) -> None:
    """The digest binds the decision to the evidence it was given."""
    ordered = order()
    for update in ({"stale": False}, {"key_id": "another"}, {"age_days": 13}):
        tampered = ordered.model_copy(update={"credential": ordered.credential.model_copy(update=update)})
        with pytest.raises(DigestMismatch):
            confirm(tampered, catalogue)
    with pytest.raises(DigestMismatch):
        confirm(ordered.model_copy(update={"account_id": "acct_2"}), catalogue)


def test_a_no_can_never_be_turned_into_an_order(catalogue: Catalogue) -> None:
    """A sound digest of a decision that allows nothing still creates nothing."""
    asked = request(credential=facts(stale=False))
    refusal = judged(catalogue, proposal("not_eligible", None, ()), credential=asked.credential)
    assert isinstance(refusal, GroundedDecision)
    ordered = order().model_copy(update={"decision": refusal, "credential": asked.credential})
    with pytest.raises(DigestMismatch):
        confirm(ordered, catalogue)


@pytest.mark.parametrize(
    ("approver", "digest"),
    [(None, None), ("mallory", None), ("luna", None), ("omar", f"v1:{'0' * 64}")],
    ids=["no approval", "a stranger's", "the requester's own", "of another decision"],
)
def test_an_order_under_a_line_that_asks_for_an_approval_is_refused_without_one_that_counts(
    approver: str | None, digest: str | None
) -> None:
    """At the action's own boundary too, whatever the workflow let through."""
    catalogue = with_approval(approvers=("omar", "luna"))
    ordered = _approved_order(catalogue, approver, digest)
    with pytest.raises(ApprovalInvalid):
        confirm(ordered, catalogue)
    confirm(_approved_order(catalogue, "omar", None), catalogue)


def _approved_order(catalogue: Catalogue, approver: str | None, digest: str | None) -> JobOrder:
    asked = request(user_id="luna")
    decision = ground(proposal(), asked, catalogue.resolve(asked.policy_lines))
    assert isinstance(decision, GroundedDecision)
    assert decision.needs_approval
    return JobOrder(
        tenant_id=asked.tenant_id,
        user_id=asked.user_id,
        account_id=asked.account_id,
        credential=asked.credential,
        policy_lines=asked.policy_lines,
        decision=decision,
        approval=None if approver is None else Approval(approver=approver, digest=digest or decision.digest),
        trace_id=asked.trace_id,
    )


def test_where_several_lines_ask_for_an_approval_the_approver_stands_in_each_list(catalogue: Catalogue) -> None:
    """The strictest reading: no one approves under a line that does not name them."""
    line = catalogue.current("P-7")
    lines = [
        line.model_copy(update={"id": name, "approval": "required", "approvers": approvers})
        for name, approvers in (("P-7", ("omar", "priya")), ("P-70", ("priya", "noor")))
    ]
    asked = request(policy_lines=tuple(line.ref for line in lines))
    decision = ground(proposal(sources=["P-7", "P-70"]), asked, lines)
    assert isinstance(decision, GroundedDecision)
    assert decision.approvers == ("priya",)


def test_a_second_click_is_the_same_request_and_a_day_later_is_not() -> None:
    """The digest of a request leaves out what differs between clicks and covers what changes the answer."""
    rotated = NOW - timedelta(days=89, hours=23)
    first = request(credential=facts(key_id="k", age_days=None, last_rotated_at=rotated))
    click = request(
        question="Again, may it?",
        trace_id="t2",
        credential=facts(key_id="k", age_days=None, last_rotated_at=rotated, observed_at=NOW + timedelta(minutes=5)),
    )
    next_day = request(
        credential=facts(key_id="k", age_days=None, last_rotated_at=rotated, observed_at=NOW + timedelta(hours=2))
    )
    assert request_digest(first) == request_digest(click)
    assert request_digest(first) != request_digest(next_day)
