"""`keyturn explain` answers from the encrypted record why a rotation ended as it did."""

import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from temporalio.client import Client

from keyturn.application.answers import answer
from keyturn.application.any_id import Summary
from keyturn.application.connection import connect
from keyturn.application.requests import id_of
from keyturn.application.rotation_status import outcome_of
from keyturn.application.rotations import rotate, start_or_attach
from keyturn.application.stories import story_of
from keyturn.console import printable
from keyturn.jobs.store import JobStore
from keyturn.llm.errors import ProviderUnavailable, QuotaExhausted
from keyturn.payload_errors import PayloadKeyUnknown
from keyturn.policy.catalogue import load_catalogue
from keyturn.rotations.contracts import Approval, Resumption
from keyturn.rotations.outcomes import JobCreated, Rejected, TimedOut
from keyturn.starter.cli import cli
from keyturn.starter.explain import story_lines
from keyturn.tasks.registry import load_tasks
from tests.support.cases import QUESTION, request
from tests.support.keys import OLDER, ring
from tests.support.record_histories import Place
from tests.support.workers_for_tests import ELIGIBLE, Script, with_approval, worker_on


async def test_an_accepted_answer_is_reported_word_for_word(temporal: Client, sqlite_store: JobStore) -> None:
    """The prompt is the one that the task's files make of the request, and the answer is what the model said."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    async with worker_on(temporal, queue, Script(ProviderUnavailable("away"), ELIGIBLE), sqlite_store):
        _, outcome = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
    assert isinstance(outcome, JobCreated)
    workflow_id, steps = await story_of(temporal, id_of(asked))
    assert workflow_id == id_of(asked)
    assert [step["step"] for step in steps] == ["asked", "decided", "job", "ended"]
    first, decided, job, ended = steps
    assert first["request"] == asked.model_dump(mode="json")
    prompt = load_tasks()["decide_rotation"].prompt(asked, load_catalogue().resolve(asked.policy_lines))
    assert decided["exchange"] == {"instructions": prompt.system, "document": prompt.user, "answer": ELIGIBLE}
    assert QUESTION in decided["exchange"]["document"]
    assert decided["catalogue_version"] == load_catalogue().version
    assert (decided["attempts"], decided["attempt_before"]["kind"]) == (2, "provider_unavailable")
    assert decided["attempt_before"]["message"] == "away"
    assert (job["job_id"], ended["status"]) == (outcome.job_id, "job_created")
    shown = "\n".join(line for step in steps for line in story_lines(step))
    for expected in (
        QUESTION,
        ELIGIBLE,
        "accepted: eligible under P-7@1, window 30 days",
        "attempts  2",
        outcome.job_id,
    ):
        assert expected in shown


async def test_a_rejected_answer_is_reported_with_the_reason(temporal: Client, sqlite_store: JobStore) -> None:
    """What the model claimed, and what the policy says instead."""
    queue, asked, wrong = f"test-{uuid.uuid4().hex}", request(), ELIGIBLE.replace("30", "90")
    async with worker_on(temporal, queue, Script(wrong), sqlite_store):
        _, outcome = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
    assert isinstance(outcome, Rejected)
    _, steps = await story_of(temporal, id_of(asked))
    shown = "\n".join(line for step in steps for line in story_lines(step))
    assert wrong in shown
    assert "rejected, unsupported_window: The binding policy (P-7@1) states a window of 30 days" in shown


async def test_people_and_failures_are_reported_too(temporal: Client, sqlite_store: JobStore) -> None:
    """A quota that was used up, who resumed, who approved."""
    queue, asked = f"test-{uuid.uuid4().hex}", request(user_id="luna")
    script = Script(QuotaExhausted("the quota is used up"), ELIGIBLE)
    async with worker_on(temporal, queue, script, sqlite_store, catalogue=with_approval()):
        handle = (await start_or_attach(temporal, asked, task_queue=queue)).handle
        place = Place(temporal, handle, asked.credential.key_id, queue)
        await place.digest_at("parked")
        await answer(handle, "resume", Resumption(operator="noor"))
        digest = await place.digest_at("awaiting_approval")
        await answer(handle, "approve", Approval(approver="omar", digest=digest))
        await outcome_of(handle)
    _, steps = await story_of(temporal, id_of(asked))
    assert [step["step"] for step in steps] == ["asked", "failed", "word", "decided", "word", "job", "ended"]
    shown = "\n".join(line for step in steps for line in story_lines(step))
    for expected in (
        "decide failed, quota_exhausted: ",
        "the quota is used up",
        "resume  operator=noor",
        "approver=omar",
    ):
        assert expected in shown


def test_an_answer_cannot_write_to_the_terminal_that_shows_it() -> None:
    """Escape sequences and the like are replaced; letters of any language stay."""
    assert printable("\x1b[2Jcleared\x9b31m \u202e Schlüssel 鍵") == "\ufffd[2Jcleared\ufffd31m \ufffd Schlüssel 鍵"


@pytest.mark.parametrize("command", [["watch"], ["status"]])
@pytest.mark.parametrize("some_id", ["execute:job_1", "rotate:default:a:k:P-7@1"])
def test_what_others_wrote_to_temporal_cannot_write_to_the_terminal_that_follows_it(
    monkeypatch: pytest.MonkeyPatch, command: list[str], some_id: str
) -> None:
    """Types of activities, kinds of failures: who can start a workflow there names them."""
    hostile = "step \x1b]52;c;aGk=\x07 \u202e"

    async def steps(*_: Any) -> AsyncIterator[str]:
        yield hostile

    async def found(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(id=some_id), None

    async def summary(*_: Any) -> Summary:
        return Summary("running", (hostile,), True)

    async def progress(*_: Any) -> list[str]:
        return [hostile]

    async def ended(*_: Any) -> TimedOut:
        return TimedOut()

    async def connected(*_: Any) -> Any:
        return SimpleNamespace(id="x")

    monkeypatch.setattr("keyturn.application.connection.connect", connected)
    for name, instead in (("steps_of", steps), ("handle_of", connected), ("progress_of", progress)):
        monkeypatch.setattr(f"keyturn.application.following.{name}", instead)
    for name, instead in (("handle_of_any", found), ("summary_of_any", summary)):
        monkeypatch.setattr(f"keyturn.application.any_id.{name}", instead)
    monkeypatch.setattr("keyturn.application.rotation_status.outcome_of", ended)
    result = CliRunner().invoke(cli, [*command, some_id])
    assert "step \ufffd]52;c;aGk=\ufffd \ufffd" in result.output, result.output
    assert not {"\x1b", "\x07", "\u202e"} & set(result.output)


async def test_without_the_key_nothing_is_explained(temporal: Client, sqlite_store: JobStore) -> None:
    """The record is encrypted: another key is refused by name."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store):
        await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
    stranger = await connect(temporal.service_client.config.target_host, keyring=ring(OLDER))
    with pytest.raises(
        PayloadKeyUnknown, match="encrypted under the key newer, which is not among this machine's keys"
    ):
        await story_of(stranger, id_of(asked))
