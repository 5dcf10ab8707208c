"""What a rotation waits for from a person: one question at a time, one answer to it, everything else refused by name.

Validators run before an update is written to history: what they refuse has changed nothing and left no event.
"""

from collections.abc import Sequence
from contextlib import suppress

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from keyturn.people import is_among
    from keyturn.rotations.contracts import (
        Abandonment,
        Approval,
        Denial,
        Instruction,
        Resumption,
        RotationRequest,
        RotationStatus,
    )
    from keyturn.workflows.visibility import APPROVAL, DISAGREEMENT, PARKED, WAITING

Answer = Resumption | Abandonment | Approval | Denial | RotationRequest


class Waiting:
    """The open question to a person, if there is one, and the answer that came."""

    def __init__(self) -> None:
        self.status = RotationStatus(phase="deciding")
        self._answer: Answer | None = None

    async def for_person(self, status: RotationStatus) -> Answer | None:
        """Wait for a response until `status.until`; None if none came. Search attribute and memo show the wait."""
        if status.until is None:
            raise ValueError("a wait for an operator or approver needs a deadline")
        self.status, self._answer = status, None
        kind = {"awaiting_approval": APPROVAL, "disagreement": DISAGREEMENT}.get(status.phase, status.kind)
        workflow.upsert_search_attributes([PARKED.value_set(kind or "unforeseen")])
        workflow.upsert_memo({WAITING: status})
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._answer is not None,
                timeout=status.until - workflow.now(),
                timeout_summary=f"wait for an operator or approver: {kind}",
            )
        answer, self._answer = self._answer, None
        self.status = RotationStatus(phase="deciding", request_digest=status.request_digest)
        workflow.upsert_search_attributes([PARKED.value_unset()])
        return answer

    def take(self, answer: Answer) -> None:
        """Give the answer to the open question; its validator has seen it."""
        self._answer = answer

    def expect_parked(self) -> None:
        """Refuse an instruction that only a parked rotation accepts."""
        self._expect("parked")

    def expect_approver(self, approver: str, digest: str, *, asked_by: Sequence[str]) -> None:
        """Refuse all but an approver's decision on what waits.

        Args:
            approver: who says to be one.
            digest: of the decision that they saw.
            asked_by: who may not decide because they asked; empty where they may.
        """
        self._expect("awaiting_approval", "disagreement")
        decision = self.status.decision
        if decision is None or decision.digest != digest:
            raise refusal("stale_digest", "the pending decision has another digest: review it again")
        if is_among(approver, asked_by):
            raise refusal("own_request", "an asker cannot decide on their own rotation")
        if not decision.any_operator and not is_among(approver, decision.approvers):
            raise refusal("not_an_approver", "this user is no approver of the binding policy lines")

    def expect_new_evidence(self, request: RotationRequest, digest: str, current: RotationRequest) -> None:
        """Refuse a restatement of anything but the same rotation on other evidence, or under another wording.

        Args:
            request: as it is stated anew.
            digest: its digest.
            current: as it was stated before.
        """
        self._expect("parked", "awaiting_approval", "disagreement")
        if _rotation_of(request) != _rotation_of(current):
            raise refusal("other_rotation", "this is a request for another rotation")
        same_wording = request.policy_digest in (None, current.policy_digest)
        if digest == self.status.request_digest and same_wording:
            raise refusal("same_evidence", "the evidence is the same: nothing changes")
        seen, known = request.credential, current.credential
        if known.compromised and not seen.compromised:
            raise refusal("exposed_before", "the key was reported as exposed, which no other evidence takes back")
        # A request of last month, asked or copied again, ends no wait for an answer to what was seen since. A report of
        # an exposure counts all the same: the machine that states the time of either may have another clock.
        is_new_exposure = bool(seen.compromised) and not known.compromised
        if seen.observed_at < known.observed_at and not is_new_exposure:
            raise refusal("older_evidence", "the evidence is older than that which the decision waits for")

    def _expect(self, *phases: str) -> None:
        if self.status.phase not in phases or self._answer is not None:
            now = "already answered" if self._answer is not None else f"at {self.status.phase}"
            raise refusal("not_waiting", f"the rotation is not {' or '.join(phases)}: it is {now}")


def expect_own(instruction: Instruction) -> None:
    """Refuse an instruction for another workflow, or for an earlier one of this id, whoever sends it here."""
    info = workflow.info()
    if (instruction.workflow_id, instruction.first_run_id) != (info.workflow_id, info.first_execution_run_id):
        raise refusal("other_rotation", "this Update belongs to another workflow, or names none")


def refusal(kind: str, message: str) -> ApplicationError:
    """Return what a validator raises: the update is refused under this name, and nothing changed."""
    return ApplicationError(message, type=kind, non_retryable=True)


def _rotation_of(request: RotationRequest) -> tuple[object, ...]:
    return request.tenant_id, request.account_id, request.credential.key_id, set(request.policy_lines)
