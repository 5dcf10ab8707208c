"""Persons' responses to a rotation, against a small model of it: in whatever order they come, both agree."""

import asyncio
import uuid
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from keyturn.application.answers import address_instruction
from keyturn.application.rotation_status import outcome_of, status_of
from keyturn.application.rotations import start_or_attach
from keyturn.jobs.store import JobStore
from keyturn.llm.errors import QuotaExhausted
from keyturn.rotations.contracts import Abandonment, Approval, Denial, Instruction, Resumption
from keyturn.rotations.outcomes import JobCreated, Rejected
from tests.support.cases import facts, request
from tests.support.workers_for_tests import APPROVERS, ELIGIBLE, Script, with_approval, worker_on

NO_DIGEST = "v1:" + "0" * 64
# Who says what: whether the digest is that of the decision which waits.
PEOPLE = st.sampled_from(["luna", *APPROVERS, "nobody"])
WORDS = st.one_of(
    st.tuples(st.sampled_from(["approve", "deny"]), PEOPLE, st.booleans()),
    st.tuples(st.sampled_from(["resume", "abandon", "restate_same"]), PEOPLE, st.just(True)),
    st.tuples(st.just("restate"), st.sampled_from(["luna", APPROVERS[0]]), st.just(True)),
)


def expected(phase: str, asked_by: set[str], word: tuple[str, str, bool]) -> tuple[str, str | None]:
    """The model: what becomes of the rotation, and by which name the word is refused."""
    what, who, right = word
    if what in {"resume", "abandon"}:
        if phase != "parked":
            return phase, "not_waiting"
        return ("awaiting_approval", None) if what == "resume" else ("abandoned", None)
    if what == "restate_same":
        return phase, "same_evidence"
    if what == "restate":
        return "awaiting_approval", None
    refused = (
        "not_waiting" if phase != "awaiting_approval"
        else "stale_digest" if not right
        else "own_request" if what == "approve" and who in asked_by
        else "not_an_approver" if who not in APPROVERS
        else None
    )  # fmt: skip
    return (phase, refused) if refused else ("approved" if what == "approve" else "denied", None)


async def test_a_rotation_takes_and_refuses_what_its_model_does(temporal: Client, sqlite_store: JobStore) -> None:
    """Parked first, then waiting for an approval; at the end one job if it was approved, and none otherwise."""
    loop = asyncio.get_running_loop()

    async def lived(parked: bool, words: list[tuple[str, str, bool]]) -> None:
        queue, account = f"test-{uuid.uuid4().hex}", f"acct_{uuid.uuid4().hex[:12]}"
        script = Script(*([QuotaExhausted("x")] if parked else []), ELIGIBLE)
        asked = request(user_id="luna", account_id=account, credential=facts(key_id="key_1", age_days=40))
        age = 40
        async with worker_on(temporal, queue, script, sqlite_store, catalogue=with_approval()):
            handle = (await start_or_attach(temporal, asked, task_queue=queue)).handle
            phase, asked_by = ("parked" if parked else "awaiting_approval"), {"luna"}
            for word in [*words, ("abandon", "omar", True), ("deny", APPROVERS[0], True)]:
                digest = await digest_at(handle, phase)
                phase, refusal = expected(phase, asked_by, word)
                what, who, right = word
                if what == "restate":
                    age += 1
                    asked_by.add(who)
                restated = request(user_id=who, account_id=account, credential=facts(key_id="key_1", age_days=age))
                argument: Any = {
                    "resume": Resumption(operator=who),
                    "abandon": Abandonment(operator=who, reason="The test says so."),
                    "approve": Approval(approver=who, digest=digest if right else NO_DIGEST),
                    "deny": Denial(approver=who, digest=digest if right else NO_DIGEST, reason="The test says so."),
                    "restate": restated,
                    "restate_same": asked if age == 40 else restated,
                }[what]
                said = await refusal_of(handle, what.removesuffix("_same"), argument)
                assert said == refusal, (phase, word)
                if phase not in {"parked", "awaiting_approval"}:
                    break
            outcome = await outcome_of(handle)
        jobs = [
            row for row in await sqlite_store.jobs(tenant_id="default", limit=1_000) if row["account_id"] == account
        ]
        assert isinstance(outcome, JobCreated) == (phase == "approved") == (len(jobs) == 1), phase
        assert isinstance(outcome, Rejected) == (phase == "denied")

    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(parked=st.booleans(), words=st.lists(WORDS, max_size=6))
    def all_lives(parked: bool, words: list[tuple[str, str, bool]]) -> None:
        asyncio.run_coroutine_threadsafe(lived(parked, words), loop).result()

    await asyncio.to_thread(all_lives)


async def digest_at(handle: Any, phase: str) -> str:
    """Wait for a phase; returns the digest of the decision that waits, if one does."""
    async with asyncio.timeout(20):
        while True:
            status = await status_of(handle)
            if status is not None and status.phase == phase:
                return status.decision.digest if status.decision is not None else NO_DIGEST
            await asyncio.sleep(0.01)


async def refusal_of(handle: Any, update: str, argument: Any) -> str | None:
    if isinstance(argument, Instruction):
        argument = await address_instruction(handle, argument)
    try:
        await handle.execute_update(update, argument)
    except WorkflowUpdateFailedError as refused:
        return refused.cause.type if isinstance(refused.cause, ApplicationError) else "no refusal of ours"
    return None
