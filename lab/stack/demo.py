"""What `keyturn demo` shows: a rotation, the same again, a wrong answer, and a provider that is down."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from keyturn.application.requests import build_request, id_of
from keyturn.application.rotation_status import outcome_of
from keyturn.application.rotations import rotate
from keyturn.calls import CallRecord
from keyturn.database import database_url, open_database
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.embedded import Stack
from keyturn.lab.stack.loopback import loopback_client
from keyturn.policy.catalogue import load_catalogue
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.outcomes import JobCreated, Rejected, RotationOutcome
from keyturn.workflows.options import TASK_QUEUE
from keyturn.workflows.rotation import RotationWorkflow

WAIT_SECONDS = 60.0  # the first rotation includes the worker's own start
Say = Callable[[str], None]


async def show(stack: Stack, say: Say) -> bool:
    """Show the four rotations, a few lines each through `say`; returns whether each ended as it must."""
    request = _request("acct_10234", "key_7f3a")
    say("1. May the stale key key_7f3a of acct_10234 be rotated under P-7?")
    first = await _rotate(stack, request)
    _print_outcome(say, stack, request, first)
    if not isinstance(first, JobCreated):
        return False

    say("2. The same request again")
    asked = await _calls(stack)
    second = await _rotate(stack, request)
    say(f"   asked     no model: the same workflow answers ({await _calls(stack) - asked} model calls)")
    _print_job(say, second)
    say("   and in a new run, as if the first were past its retention:")
    anew = await stack.client.start_workflow(
        RotationWorkflow.run,
        request,
        id=id_of(request, stack.keyring.name_of),
        task_queue=TASK_QUEUE,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        execution_timeout=timedelta(seconds=WAIT_SECONDS),
    )
    third = await outcome_of(anew)
    _print_job(say, third)
    if isinstance(third, JobCreated):
        say(f"   asked     {'no model: a cached response' if third.call.cache_hit else third.call.model}")

    say("3. The model claims a window of 90 days for P-7.")
    await _set_fault(stack, {"name": "wrong_window", "days": 90, "account": "acct_10235"})
    wrong = _request("acct_10235", "key_91bc")
    fourth = await _rotate(stack, wrong)
    _print_outcome(say, stack, wrong, fourth)

    say("4. The first provider of the route is down.")
    await _set_fault(stack, {"name": "unavailable", "provider": "openai"})
    elsewhere = _request("acct_10236", "key_c40d")
    fifth = await _rotate(stack, elsewhere)
    _print_outcome(say, stack, elsewhere, fifth)

    jobs = await _jobs(stack)
    say(f"Jobs in the database: {len(jobs)}")
    created = [outcome for outcome in (first, second, third, fifth) if isinstance(outcome, JobCreated)]
    return (
        len(created) == 4
        and await _calls(stack) == 4  # the first, the one with 90 days, and one of each provider for the last
        and {outcome.job_id for outcome in created} == {job["job_id"] for job in jobs}
        and isinstance(fourth, Rejected)
        and fourth.reason == "unsupported_window"
    )


def _request(account: str, key: str) -> RotationRequest:
    return build_request(
        load_catalogue(),
        policy=["P-7"],
        facts={"key_id": key, "stale": True, "age_days": 12, "observed_at": datetime.now(UTC), "source": "demo"},
        fields={"account_id": account, "question": "May the stale service-account key be rotated?", "user_id": "luna"},
    )


async def _rotate(stack: Stack, request: RotationRequest) -> RotationOutcome:
    _, outcome = await rotate(stack.client, request, task_queue=TASK_QUEUE, wait_seconds=WAIT_SECONDS)
    return outcome


def _print_outcome(say: Say, stack: Stack, request: RotationRequest, outcome: RotationOutcome) -> None:
    catalogue = load_catalogue()
    if isinstance(outcome, JobCreated | Rejected):
        _print_call(say, outcome.call)
    if isinstance(outcome, JobCreated):
        decision = outcome.decision
        for line in catalogue.resolve(decision.source_lines):
            say(f'   policy    {line.ref}: "{line.wording}"')
        say(f"   decision  {decision.decision}, window {decision.rotation_window_days} days")
        say("   verdict   grounded: it is what the evidence supports under every supplied line")
        _print_job(say, outcome)
    elif isinstance(outcome, Rejected):
        say(f"   verdict   rejected, {outcome.reason}: {outcome.explanation}")
        say("   job       none")
    else:
        say(f"   outcome   {outcome.status}")
    say(f"   history   {stack.history_url(id_of(request))}")


def _print_call(say: Say, call: CallRecord) -> None:
    for passed in call.passed_over:
        say(f"   asked     {passed.provider}, {passed.model}: {passed.failure}, so the next one")
    cost = "price unknown" if call.cost_usd is None else f"${call.cost_usd.normalize():f}"
    tokens = f"{call.input_tokens} tokens in, {call.output_tokens} out"
    say(f"   asked     {call.provider}, {call.model}, prompt {call.prompt_version}")
    say(f"   used      {tokens}, {cost}, {call.latency_ms:.0f} ms")


def _print_job(say: Say, outcome: RotationOutcome) -> None:
    if isinstance(outcome, JobCreated):
        state = "created" if outcome.created else "existed already (created=False)"
        due = f", due {outcome.due:%Y-%m-%d}" if outcome.due else ""
        say(f"   job       {outcome.job_id} {state}{due}")
    else:
        say(f"   outcome   {outcome.status}")


async def _set_fault(stack: Stack, fault: dict[str, Any]) -> None:
    async with loopback_client() as http:
        (await http.post(f"{stack.simulator}/control/faults", json=fault)).raise_for_status()


async def _calls(stack: Stack) -> int:
    async with loopback_client() as http:
        return len((await http.get(f"{stack.simulator}/control/requests")).json())


async def _jobs(stack: Stack) -> list[dict[str, Any]]:
    engine = open_database(database_url(stack.database))
    try:
        return [dict(job) for job in await JobStore(engine).jobs(tenant_id="default", limit=100)]
    finally:
        await engine.dispose()
