"""What the desk does, for any caller and form: it reaches Temporal and the database, and knows no HTTP."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from keyturn.application.answers import answer
from keyturn.application.drafts import start_draft, stop_draft
from keyturn.application.encryption import names_of
from keyturn.application.exposures import ExposedKeys
from keyturn.application.following import NoSuchWorkflow, describe_workflow
from keyturn.application.outcomes import as_object, with_job_state
from keyturn.application.requests import build_request, id_of
from keyturn.application.rotation_status import outcome_of, waiting_for, waits_for
from keyturn.application.rotations import rotate
from keyturn.application.stories import last_request, story_of
from keyturn.contracts import Contract, NameProof
from keyturn.desk.lists import Lists
from keyturn.drafts.errors import UnknownDraft
from keyturn.drafts.reading import DraftReading
from keyturn.drafts.store import Draft, DraftStore
from keyturn.errors import InvalidRequest, JobStoreUnavailable
from keyturn.exposures.store import ExposureStore
from keyturn.jobs.in_flight import as_row
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.keyring import Keyring
from keyturn.owners import Owners
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.line import PolicyLine
from keyturn.rotations.contracts import Abandonment, Approval, Denial, Resumption, RotationRequest
from keyturn.rotations.decisions import GroundedDecision
from keyturn.rotations.outcomes import JobCreated, RotationOutcome
from keyturn.tasks.draft_reply import DraftRequest
from keyturn.waivers.contracts import Waiver
from keyturn.waivers.granting import new_waiver
from keyturn.waivers.jobs import WaivedJobs
from keyturn.waivers.known import expect_owner_known
from keyturn.waivers.store import WaiverStore
from keyturn.workflows.identity import stored_id
from keyturn.workflows.visibility import TENANT

DECIDED = frozenset({"job_created", "not_eligible", "not_specified"})  # the ends of which a decision may be reported
# A draft whose row did not come is looked for at the server so often: no worker may be there, or it was stopped first.
LOOK_SECONDS = 1.0
Row = Mapping[str, Any]


@dataclass(frozen=True)
class DraftView:
    """What a reader is sent of a draft: the part not seen yet."""

    draft: Draft
    starts_over: bool
    more: str


class Desk:
    """The operations, for one tenant.

    Args:
        client: a connected client, with the keys that encrypt payloads.
        engine: the database.
        keyring: the same keys.
        catalogue: the policy lines.
        tenant: whose desk it is.
        task_queue: where workers poll.
        owners: who owns which key, for lists; None if none is known.
    """

    def __init__(
        self,
        client: Client,
        engine: AsyncEngine,
        keyring: Keyring,
        catalogue: Catalogue,
        *,
        tenant: str,
        task_queue: str,
        owners: Owners | None = None,
    ) -> None:
        self.client = client
        self.catalogue = catalogue
        self.tenant = tenant
        self._task_queue = task_queue
        self._jobs, self._leases = JobStore(engine), JobLeases(engine)
        self._drafts = DraftStore(engine, keyring)
        self._reading = DraftReading(self._drafts)
        self.owners = owners or Owners()
        self.engine = engine
        self.waivers = WaiverStore(engine)
        self._waived = WaivedJobs(engine, self.owners, catalogue, tenant_id=tenant)
        self.exposed = ExposedKeys(client, catalogue, ExposureStore(engine), tenant=tenant, task_queue=task_queue)
        self.lists = Lists(client, engine, tenant=tenant, owners=self.owners)
        self._looking: dict[str, asyncio.Task[Draft]] = {}

    async def ask(
        self, user: str, asked: Mapping[str, Any], *, wait_seconds: float, proved_by: NameProof = "stated"
    ) -> dict[str, Any]:
        """Ask whether a key may be rotated; returns the outcome, or what it waits for when `wait_seconds` have passed.

        Raises:
            InvalidRequest, UnknownPolicyLine: it cannot be asked.
            TemporalUnreachable: the start was not confirmed; ask again.
        """
        request = self.request_of(user, asked, proved_by=proved_by)
        attached, outcome = await rotate(
            self.client,
            request,
            task_queue=self._task_queue,
            wait_seconds=wait_seconds,
            owner=self.owners.owner_of(request.account_id, request.credential.key_id, request.owner),
        )
        outcome = await self._with_job(outcome) if attached else outcome
        return as_object(id_of(request, names_of(self.client)), outcome, attached=attached)

    async def _with_job(self, outcome: RotationOutcome) -> RotationOutcome:
        found = await self._jobs.state_of(outcome.job_id) if isinstance(outcome, JobCreated) else None
        return with_job_state(outcome, None if found is None else found.state)

    def request_of(self, user: str, asked: Mapping[str, Any], *, proved_by: NameProof = "stated") -> RotationRequest:
        """Return the request that a form or a body makes; raises InvalidRequest, UnknownPolicyLine."""
        fields = {name: asked.get(name) for name in ("account_id", "question", "trace_id", "again")}
        facts = {"observed_at": datetime.now(UTC)}
        facts |= {name: value for name, value in asked.items() if name not in {*fields, "policy_lines"}}
        fields |= {"user_id": user, "tenant_id": self.tenant, "user_proved_by": proved_by}
        return build_request(self.catalogue, policy=asked["policy_lines"], facts=facts, fields=fields)

    async def rotation(self, workflow_id: str) -> dict[str, Any]:
        """Return a rotation's status; it is `running` while the rotation continues by itself. Raises NoSuchWorkflow."""
        handle, description = await self._mine(workflow_id)
        if description.status is WorkflowExecutionStatus.RUNNING:
            kind = waits_for(description)
            known = as_object(handle.id, await waiting_for(handle, kind=kind))
            return known | ({"status": "running"} if known["status"] == "timeout" else {})
        return as_object(handle.id, await self._with_job(await outcome_of(handle)))

    async def story(self, workflow_id: str) -> list[dict[str, Any]]:
        """Return a rotation's steps, from its history, without what was sent to a model and what it said."""
        handle, _ = await self._mine(workflow_id)
        _, steps = await story_of(self.client, handle.id)
        return [{name: value for name, value in step.items() if name != "exchange"} for step in steps]

    async def grant_waiver(self, user: str, **fields: Any) -> Waiver:
        """Exempt keys from rotation, by an approver; raises InvalidRequest, WaiverRefused, UnknownPolicyLine."""
        waiver = new_waiver(self.catalogue, {**fields, "tenant_id": self.tenant, "granted_by": user})
        await expect_owner_known(waiver, self.engine, self.owners)
        await self.waivers.add(waiver)
        return waiver

    async def say(self, workflow_id: str, update: str, word: Contract) -> None:
        """Give a person's word to a rotation; raises NoSuchWorkflow, AnswerRefused, NoWorkerAnswers."""
        handle, _ = await self._mine(workflow_id)
        await answer(handle, update, word)

    async def resume(self, user: str, workflow_id: str) -> None:
        """Let a parked rotation try again; see `say`."""
        await self.say(workflow_id, "resume", Resumption(operator=user))

    async def abandon(self, user: str, workflow_id: str, reason: str) -> None:
        """End a parked rotation; see `say`."""
        await self.say(workflow_id, "abandon", Abandonment(operator=user, reason=reason))

    async def approve(
        self, user: str, workflow_id: str, digest: str, reason: str | None = None, *, proved_by: NameProof = "stated"
    ) -> None:
        """Approve the decision of this digest; see `say`."""
        approval = Approval(approver=user, digest=digest, reason=reason or None, proved_by=proved_by)
        await self.say(workflow_id, "approve", approval)

    async def deny(
        self, user: str, workflow_id: str, digest: str, reason: str, *, proved_by: NameProof = "stated"
    ) -> None:
        """Deny the decision of this digest; see `say`."""
        await self.say(workflow_id, "deny", Denial(approver=user, digest=digest, reason=reason, proved_by=proved_by))

    async def draft(self, user: str, draft_id: str, asked: Mapping[str, Any]) -> None:
        """Start writing a draft, unless that was done: of a reply to a rotation's asker, or to any question.

        Args:
            user: who asks.
            draft_id: of its workflow; the same for the same click or key.
            asked: `workflow_id` of a rotation; or `account_id`, `question` and `policy_lines`.

        Raises:
            NoSuchWorkflow, InvalidRequest, UnknownPolicyLine: it cannot be written.
        """
        request = await self.draft_request(user, asked)
        try:
            await start_draft(self.client, draft_id, request, task_queue=self._task_queue)
        except WorkflowAlreadyStartedError:
            return  # it was written for the same click or key

    async def find_draft(self, draft_id: str) -> Draft:
        """Return a draft, whether a worker has started it or not; raises UnknownDraft."""
        try:
            return await self._drafts.find(draft_id, tenant_id=self.tenant)
        except UnknownDraft:
            return await self._draft_from_temporal(draft_id)

    async def share_draft(self, draft_id: str) -> Draft:
        """Return what `find_draft` does, by one look for all who ask at once: many readers may follow one draft."""
        looking = self._looking.get(draft_id)
        if looking is None:
            looking = self._looking[draft_id] = asyncio.create_task(self.find_draft(draft_id))

            def on_done(late: asyncio.Task[Draft]) -> None:
                del self._looking[draft_id]
                late.cancelled() or late.exception()  # read, even if every caller has gone

            looking.add_done_callback(on_done)
        return await asyncio.shield(looking)

    async def follow(self, draft_id: str, *, generation: int = 0, length: int = 0) -> AsyncGenerator[DraftView, None]:
        """Yield what a reader has not seen of a draft, until it has ended. While the database is away, they wait.

        Args:
            draft_id: of its workflow; one that is there, see `share_draft`.
            generation: of the text that the reader has; 0 for none.
            length: how many characters of it.
        """
        shown: str | None = None
        async for draft in self._changes(draft_id):
            anew = draft.generation != generation or len(draft.text) < length
            if shown is not None and not draft.text.startswith(shown):
                anew = True  # its end was trimmed: what is shown is what was judged
            more = draft.text if anew else draft.text[length:]
            yield DraftView(draft, anew and length > 0, more)
            generation, length, shown = draft.generation, len(draft.text), draft.text

    async def stop(self, draft_id: str) -> None:
        """Stop a draft, also while the database is away; nothing happens to one that has ended. Raises UnknownDraft."""
        try:
            running = not (await self._draft_from_temporal(draft_id)).has_ended
        except UnknownDraft:
            await self.find_draft(draft_id)  # its history has expired; or there is none
            return
        if running:
            await stop_draft(self.client, draft_id)

    async def draft_trail(self, draft_id: str) -> Sequence[Row]:
        """Return the states that a draft went through."""
        return await self._drafts.trail(draft_id)

    async def job(self, job_id: str) -> tuple[Row, Sequence[Row]]:
        """Return a job and its audit trail; raises UnknownJob."""
        return await self._leases.show(job_id, tenant_id=self.tenant)

    async def held_back(self, job: Row) -> str | None:
        """Return the waiver, in words, for which no executor starts a job; None if there is none."""
        return await self._waived.holds_back(as_row(job))

    async def audit(self, workflow_id: str) -> Sequence[Row]:
        """Return what people and the program did to a rotation and its job, oldest first."""
        stored = stored_id(workflow_id, names_of(self.client))
        return await self._jobs.events(tenant_id=self.tenant, workflow_id=stored)

    def lines_of(self, refs: Sequence[str]) -> list[PolicyLine]:
        """Return the policy lines that `ID@VERSION` name, as far as this catalogue has them."""
        return [line for line in self.catalogue if str(line.ref) in refs]

    async def _changes(self, draft_id: str) -> AsyncGenerator[Draft, None]:
        """The draft's changes; if it has no row after a while, what the server knows of it."""
        async with aclosing(self._reading.follow(draft_id)) as changes:
            first = asyncio.ensure_future(anext(changes))
            try:
                while not (await asyncio.wait({first}, timeout=LOOK_SECONDS))[0]:
                    unwritten = None
                    with suppress(JobStoreUnavailable, RPCError):  # a started stream continues when they are back
                        unwritten = await self.share_draft(draft_id)
                    if unwritten is not None and unwritten.has_ended and not unwritten.revision:
                        yield unwritten
                        return
                yield first.result()
            finally:
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
            async for draft in changes:
                yield draft

    async def _draft_from_temporal(self, draft_id: str) -> Draft:
        """Return a draft that no worker has started, by its workflow; raises UnknownDraft."""
        handle: WorkflowHandle[Any, Any] = self.client.get_workflow_handle(draft_id)
        try:
            description = await handle.describe()
        except RPCError as error:
            if error.status in {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT}:
                raise UnknownDraft("there is no such draft") from None
            raise
        if (
            description.workflow_type != "DraftWorkflow"
            or description.typed_search_attributes.get(TENANT) != self.tenant
        ):
            raise UnknownDraft("there is no such draft")
        if description.status is WorkflowExecutionStatus.COMPLETED:
            # Temporal keeps histories for longer.
            raise UnknownDraft("the draft is deleted: its retention has ended")
        running = description.status is WorkflowExecutionStatus.RUNNING
        cancelled = description.status is WorkflowExecutionStatus.CANCELED
        return Draft(
            draft_id=draft_id,
            account_id="",
            requested_by="",
            state="started" if running else "cancelled" if cancelled else "failed",
            attempt=0,
            generation=0,
            revision=0,
            text="",
            approved=None,
            reason=None,
            explanation=None if running or cancelled else "No worker completed the draft. Ask for it again.",
            created_at=description.start_time,
        )

    async def draft_request(self, user: str, asked: Mapping[str, Any]) -> DraftRequest:
        """Return what a draft is asked for: of a rotation, with its decision, or of a question alone."""
        common = {"user_id": user, "tenant_id": self.tenant, "trace_id": asked["trace_id"]}
        workflow_id = asked.get("workflow_id")
        if not workflow_id:
            lines = tuple(self.catalogue.current(line).ref for line in asked["policy_lines"])
            own = {"account_id": asked["account_id"], "question": asked["question"], "policy_lines": lines}
            return DraftRequest.model_validate(common | own)
        steps = await self.story(workflow_id)
        request = last_request(steps)
        if request is None:
            raise InvalidRequest("the rotation's history does not hold its question")
        verdicts = [step["verdict"] for step in steps if step["step"] == "decided"]
        stands = any(step["step"] == "ended" and step["status"] in DECIDED for step in steps)
        has_ended = any(step["step"] == "ended" for step in steps)
        known: dict[str, Any] = {
            "waits_for_person": not has_ended and bool(verdicts) and _waits_for_person(verdicts[-1])
        }
        # One that was denied, or still waits for an approval, must not be reported as decided.
        if stands and verdicts and verdicts[-1]["verdict"] != "rejected":
            last = verdicts[-1]
            decision = GroundedDecision.model_validate(last["supported"] if last["verdict"] == "disagreement" else last)
            known |= {
                "decision": decision.decision,
                "rotation_window_days": decision.rotation_window_days,
                "rotate_by": decision.rotate_by,
            }
        asked_then = {name: request[name] for name in ("account_id", "question", "policy_lines")}
        return DraftRequest.model_validate(common | asked_then | known)

    async def _mine(self, workflow_id: str) -> tuple[WorkflowHandle[Any, Any], WorkflowExecutionDescription]:
        """A rotation of this tenant, as the server describes it; raises NoSuchWorkflow."""
        unknown = NoSuchWorkflow(f"no workflow has the ID {workflow_id[:200]}")
        try:
            handle, description = await describe_workflow(self.client, workflow_id)
        except NoSuchWorkflow:  # of what kind another tenant's workflow is, is not said
            raise unknown from None
        if description.typed_search_attributes.get(TENANT) != self.tenant:
            raise unknown
        return handle, description


def _waits_for_person(verdict: Mapping[str, Any]) -> bool:
    """Whether a person must decide on a verdict before anything follows from it."""
    return verdict["verdict"] == "disagreement" or bool(verdict.get("needs_approval"))
