"""Many rotations at once: approved, denied or resumed, each with its own answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError
from temporalio.service import RPCError

from keyturn.application.connection import map_rpc_error
from keyturn.application.rotation_lists import subject_of
from keyturn.desk.desk import Desk
from keyturn.desk.people import Person
from keyturn.desk.roles import expect_decider
from keyturn.errors import KeyturnError
from keyturn.rotations.contracts import RotationSubject
from keyturn.web.problems import Refused

# What refuses one choice. None of it may hide that others were taken.
_REFUSALS = (KeyturnError, Refused, RPCError, ValidationError)


def _problem_of(error: Exception) -> str:
    if isinstance(error, RPCError):
        return str(map_rpc_error(error))
    return "the choice is not valid" if isinstance(error, ValidationError) else str(error)


@dataclass(frozen=True)
class Choice:
    """A rotation, and the digest of its decision as the approver saw it."""

    workflow_id: str
    digest: str


@dataclass(frozen=True)
class DecisionResult:
    """What became of one choice; `problem` is None if the decision was taken, `subject` if its names are not known."""

    workflow_id: str
    problem: str | None
    subject: RotationSubject | None = None


async def resume_together(desk: Desk, person: Person, workflow_ids: Sequence[str]) -> Sequence[DecisionResult]:
    """Resume each of several parked rotations; what refuses one leaves the others."""

    async def resume(workflow_id: str) -> DecisionResult:
        try:
            await desk.resume(person.name, workflow_id)
        except _REFUSALS as error:
            return await _result(desk, workflow_id, _problem_of(error))
        return await _result(desk, workflow_id, None)

    return await asyncio.gather(*map(resume, workflow_ids))


async def _result(desk: Desk, workflow_id: str, problem: str | None) -> DecisionResult:
    return DecisionResult(workflow_id, problem, await subject_of(desk.client, workflow_id, tenant=desk.tenant))


async def decide_together(
    desk: Desk,
    person: Person,
    choices: Sequence[Choice],
    *,
    decision: Literal["approve", "deny"],
    reason: str,
) -> Sequence[DecisionResult]:
    """Approve or deny each of `choices`; what refuses one leaves the others.

    Args:
        desk: of the tenant.
        person: who decides.
        choices: on what; all at once, so that a missing worker is waited for once.
        decision: what.
        reason: for the audit trail; a denial needs one.
    """

    async def decide(choice: Choice) -> DecisionResult:
        try:
            await expect_decider(desk, person, choice.workflow_id)
            if decision == "approve":
                await desk.approve(person.name, choice.workflow_id, choice.digest, reason, proved_by=person.by)
            else:
                await desk.deny(person.name, choice.workflow_id, choice.digest, reason, proved_by=person.by)
        except _REFUSALS as error:
            return await _result(desk, choice.workflow_id, _problem_of(error))
        return await _result(desk, choice.workflow_id, None)

    return await asyncio.gather(*map(decide, choices))
