"""The jobs' HTTP interface, its client, and the example that uses them, over real HTTP on both databases."""

import asyncio
import importlib.util
import json
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.client import JobsClient
from keyturn.errors import JobStoreUnavailable, SettingsInvalid
from keyturn.jobs.consumers import consumers_moved
from keyturn.jobs.contracts import ClaimedJob
from keyturn.jobs.errors import JobClosed, StaleClaim, StateRefused, UnknownJob
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import rotation_jobs
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.processes import child
from keyturn.web.serving import served
from keyturn.workers.jobs_api import MAX_BODY_BYTES, jobs_application
from keyturn.workers.jobs_settings import load_jobs_settings
from tests.support.cases import facts, order

ROTATOR, OTHER = "rotator_token_of_the_tests_0123456789ab", "other_token_of_the_tests_0123456789abcd"
CONSUMER = "consumer_token_of_the_tests_0123456789"
ELSEWHERE = "consumer_of_another_tenant_0123456789"
CONSUMERS = {"default/pay-api": SecretStr(CONSUMER), "other/pay-api": SecretStr(ELSEWHERE)}
EVIDENCE_WITH_A_SECRET = b'{"token": 1, "evidence": {"note": "ghp_' + b"a1B2" * 9 + b'"}}'
EXAMPLE = Path(__file__).parents[2] / "examples" / "worker.py"


@dataclass(frozen=True)
class Api:
    """The interface, and the store behind it."""

    url: str
    store: JobStore
    engine: AsyncEngine

    async def make(self, *, kind: str = "service_account_key") -> str:
        ordered = order(credential=facts(), account_id=f"acct_{uuid.uuid4().hex[:8]}")
        credential = ordered.credential.model_copy(update={"kind": kind})
        ordered = ordered.model_copy(update={"credential": credential})
        return (await self.store.create_once(ordered, idempotency_key=uuid.uuid4().hex, fence=1)).job_id

    def client(self, token: str = ROTATOR) -> JobsClient:
        return JobsClient(self.url, SecretStr(token))


@pytest.fixture
async def api(engine: AsyncEngine) -> AsyncIterator[Api]:
    tokens = {"default/rotator": SecretStr(ROTATOR), "other/rotator": SecretStr(OTHER)}
    application = jobs_application(JobLeases(engine), tokens, CONSUMERS)
    async with served(application, "127.0.0.1:0", setting="KEYTURN_JOBS_ADDRESS") as url:
        yield Api(url, JobStore(engine), engine)


async def test_a_job_is_carried_out_over_http(api: Api) -> None:
    """Claimed, prolonged, reported on and completed; then there is none."""
    made = await api.make()
    async with api.client() as jobs:
        job = await jobs.claim(lease_seconds=60)
        assert job is not None
        assert job.job_id == made
        job = await jobs.heartbeat(job, state="rotating", evidence={"step": "created"})
        assert job.state == "rotating"
        assert (await jobs.complete(job, evidence={"new_key_id": "AKIA1"})).state == "done"
        assert (await jobs.complete(job)).state == "done"  # said again
        assert await jobs.claim() is None
        with pytest.raises(JobClosed):
            await jobs.fail(job, reason="too late")
    _, rows = await JobLeases(api.engine).show(made, tenant_id="default")
    assert [(row["event"], row["actor"]) for row in rows[1:]] == [
        ("claimed", "rotator"),
        ("rotating", "rotator"),
        ("done", "rotator"),
    ]


async def test_a_worker_claims_only_what_it_can_execute(api: Api) -> None:
    """By kind and by account; what it does not name is left for whoever can."""
    key, password = await api.make(), await api.make(kind="user_password")
    job, _ = await JobLeases(api.engine).show(key, tenant_id="default")
    async with api.client() as jobs:
        assert await jobs.claim(kind="access_key") is None
        assert await jobs.claim(account_id="acct_of_another") is None
        assert await jobs.claim(kind="user_password", account_id=job["account_id"]) is None
        first = await jobs.claim(kind="user_password")
        second = await jobs.claim(account_id=job["account_id"])
        assert first is not None
        assert second is not None
        assert (first.job_id, second.job_id) == (password, key)


async def test_the_example_refuses_a_kind_that_it_does_not_know() -> None:
    """Even where a server gave it such a job: it says why, and rotates nothing."""
    spec = importlib.util.spec_from_file_location("example_worker", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    job = ClaimedJob(
        job_id="job_1", tenant_id="t", account_id="acct_1", key_id="k", credential_kind="access_key", state="claimed",
        token=1,
    )  # fmt: skip
    with pytest.raises(example.CannotRotate, match="rotates a service_account_key and no access_key"):
        await example.rotate(job)


async def test_a_slow_worker_is_told_that_its_claim_is_over(api: Api) -> None:
    """By the client's own errors; and states come in their order."""
    made = await api.make()
    async with api.client() as jobs:
        slow = await jobs.claim()
        assert slow is not None
        past = datetime.now(UTC) - timedelta(seconds=1)
        async with api.engine.begin() as connection:
            await connection.execute(update(rotation_jobs).values(lease_until=past))
        quick = await jobs.claim()
        assert quick is not None
        assert (quick.job_id, quick.token) == (made, slow.token + 1)
        with pytest.raises(StaleClaim):
            await jobs.complete(slow)
        await jobs.heartbeat(quick, state="grace")
        with pytest.raises(StateRefused):
            await jobs.heartbeat(quick, state="rotating")


async def executed(api: Api) -> str:
    """A job whose executor has created the key AKIA2."""
    made = await api.make()
    leases = JobLeases(api.engine)
    owned: dict[str, Any] = {"tenant_id": "default", "lease": timedelta(minutes=5)}
    job = await leases.claim(made, owner=f"execute:{made}", **owned)
    evidence = {"consumer_01": "pay-api", "new_key_id": "AKIA2"}
    await leases.heartbeat(made, token=job.token, state="rotating", evidence=evidence, **owned)
    return made


async def test_a_consumer_reports_that_it_uses_the_new_key(api: Api) -> None:
    """Again, nothing changes; the trail has who reported it."""
    made = await executed(api)
    async with loopback_client(api.url) as http:
        for _ in range(2):
            headers = {"Authorization": f"Bearer {CONSUMER}"}
            reported = await http.post(f"/jobs/{made}/consumers/pay-api", json={"key_id": "AKIA2"}, headers=headers)
            assert reported.status_code == 204, reported.text
    _, trail = await JobLeases(api.engine).show(made, tenant_id="default")
    assert consumers_moved(trail, "AKIA2") == {"pay-api"}
    moved = [(row["actor"], dict(row["detail"])) for row in trail if row["event"] == "consumer_moved"]
    assert moved == [("pay-api", {"consumer": "pay-api", "key_id": "AKIA2"})]


@pytest.mark.parametrize(
    ("token", "path", "body", "status", "kind"),
    [
        (CONSUMER, "consumers/other-api", '{"key_id": "AKIA2"}', 403, "reports_for_itself_alone"),
        (CONSUMER, "complete", '{"token": 1}', 403, "reports_for_itself_alone"),
        (ROTATOR, "consumers/pay-api", '{"key_id": "AKIA2"}', 403, "reports_for_itself_alone"),
        (OTHER, "consumers/pay-api", '{"key_id": "AKIA2"}', 403, "reports_for_itself_alone"),
        (ELSEWHERE, "consumers/pay-api", '{"key_id": "AKIA2"}', 404, "unknown_job"),
        (CONSUMER, "consumers/pay-api", '{"key_id": "AKIA1"}', 409, "another_new_key"),
        (CONSUMER, "consumers/pay-api", '{"key_id": ""}', 422, "invalid"),
        (CONSUMER, "consumers/pay-api", "{}", 422, "invalid"),
        ("x" * 40, "consumers/pay-api", '{"key_id": "AKIA2"}', 401, "not_signed_in"),
    ],
)
async def test_a_consumer_reports_nothing_else(
    api: Api, token: str, path: str, body: str, status: int, kind: str
) -> None:
    made = await executed(api)
    headers = {"Authorization": f"Bearer {token}"}
    async with loopback_client(api.url) as http:
        refused = await http.post(f"/jobs/{made}/{path}", content=body, headers=headers)
    assert (refused.status_code, refused.json()["kind"]) == (status, kind), refused.text
    _, trail = await JobLeases(api.engine).show(made, tenant_id="default")
    assert consumers_moved(trail, "AKIA2") == set()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("heartbeat", {"lease_seconds": 86_400}),
        ("heartbeat", {"evidence": {"created_key": "AKIA_OF_ANOTHER"}}),
        ("heartbeat", {"state": "verifying"}),
        ("complete", {}),
        ("fail", {"reason": "no longer needed"}),
    ],
)
async def test_a_token_says_nothing_of_a_job_that_another_one_has_claimed(
    api: Api, path: str, body: dict[str, Any]
) -> None:
    """It has the number of the claim: numbers are small, and of what the executor wrote, its next steps are taken."""
    made = await executed(api)
    job, before = await JobLeases(api.engine).show(made, tenant_id="default")
    headers = {"Authorization": f"Bearer {ROTATOR}"}
    async with loopback_client(api.url) as http:
        guessed = await http.post(f"/jobs/{made}/{path}", json={"token": 99} | body, headers=headers)
        forged = await http.post(f"/jobs/{made}/{path}", json={"token": job["lease_token"]} | body, headers=headers)
    assert (forged.status_code, forged.json()["kind"]) == (409, "stale_claim"), forged.text
    assert guessed.json()["detail"] == forged.json()["detail"], "a guess is answered as the right number is"
    assert await JobLeases(api.engine).show(made, tenant_id="default") == (job, before)


async def test_another_tenants_worker_sees_nothing(api: Api) -> None:
    """No job to claim, and none to speak of."""
    await api.make()
    async with api.client() as ours, api.client(OTHER) as theirs:
        assert await theirs.claim() is None
        job = await ours.claim()
        assert job is not None
        with pytest.raises(UnknownJob):
            await theirs.complete(job)


@pytest.mark.parametrize(
    ("path", "headers", "content", "status", "kind"),
    [
        ("/jobs/claim", {}, b"{}", 401, "not_signed_in"),
        ("/jobs/claim", {"Authorization": "Bearer wrong"}, b"{}", 401, "not_signed_in"),
        ("/jobs/claim", None, b"not json", 400, "invalid"),
        ("/jobs/claim", None, b'{"lease_seconds": 0}', 422, "invalid"),
        ("/jobs/claim", None, b'{"lease_seconds": 1e9}', 422, "invalid"),
        ("/jobs/claim", None, b'{"lease_seconds": "NaN"}', 422, "invalid"),
        ("/jobs/claim", None, b'{"owner": "somebody else"}', 422, "invalid"),
        ("/jobs/claim", None, b"[" * 60_000, 400, "invalid"),
        ("/jobs/claim", None, b"x" * (MAX_BODY_BYTES + 1), 413, "too_large"),
        ("/jobs/claim", None, b"x" * 10_000_000, 413, "too_large"),
        ("/jobs/job_none/complete", None, b'{"token": 1}', 404, "unknown_job"),
        ("/jobs/%27%3B%20DROP%20TABLE/complete", None, b'{"token": 1}', 404, "unknown_job"),
        ("/jobs/job_none/complete", None, b"{}", 422, "invalid"),
        ("/jobs/job_none/complete", None, b'{"token": -1}', 422, "invalid"),
        ("/jobs/job_none/complete", None, b'{"token": 1, "evidence": {"a b": "x"}}', 422, "invalid"),
        ("/jobs/job_none/complete", None, b'{"token": 1, "evidence": {"a": "\\u001b[2J"}}', 422, "invalid"),
        ("/jobs/job_none/complete", None, b'{"token": 1, "evidence": {"a": "\\u202e"}}', 422, "invalid"),
        ("/jobs/job_none/complete", None, EVIDENCE_WITH_A_SECRET, 422, "invalid"),
        ("/jobs/job_none/fail", None, b'{"token": 1, "reason": "two\\nlines"}', 422, "invalid"),
        ("/jobs/job_none/heartbeat", None, b'{"token": 1, "state": "done"}', 422, "invalid"),
        ("/jobs/job_none/delete", None, b"{}", 404, "not_found"),
    ],
)
async def test_bad_requests_are_refused_by_name_and_change_nothing(
    api: Api, path: str, headers: dict[str, str] | None, content: bytes, status: int, kind: str
) -> None:
    """The job that is there is still there to be claimed, and nothing of the request is repeated."""
    made = await api.make()
    sent = {"Authorization": f"Bearer {ROTATOR}"} if headers is None else headers
    async with loopback_client(api.url) as http:
        answer = await http.post(path, content=content, headers=sent)
    assert (answer.status_code, answer.json()["kind"]) == (status, kind)
    assert "DROP" not in answer.text.replace("job '; DROP TABLE", "")
    job, rows = await JobLeases(api.engine).show(made, tenant_id="default")
    assert (job["status"], len(rows)) == ("open", 1)


async def test_a_shell_script_may_send_json_as_a_form_and_a_refusal_is_a_problem_document(api: Api) -> None:
    """`curl -d` calls any body a form."""
    made = await api.make()
    as_form = {"Authorization": f"Bearer {ROTATOR}", "Content-Type": "application/x-www-form-urlencoded"}
    async with loopback_client(api.url) as http:
        claimed = await http.post("/jobs/claim", content=b'{"lease_seconds": 60}', headers=as_form)
        assert (claimed.status_code, claimed.json()["job_id"]) == (200, made)
        assert (await http.post("/jobs/claim", headers=as_form)).status_code == 204
        refused = await http.post(f"/jobs/{made}/complete", content=b'{"token": 99}', headers=as_form)
        assert refused.headers["content-type"] == "application/problem+json"
        assert (refused.json()["status"], refused.json()["kind"], refused.json()["title"]) == (
            409,
            "stale_claim",
            "Conflict",
        )


async def test_the_interface_describes_itself_to_whom_it_does_not_know(api: Api) -> None:
    """OpenAPI names every route and its refusals, and no job."""
    async with loopback_client(api.url) as http:
        document = (await http.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/jobs/claim",
        "/jobs/{job_id}/heartbeat",
        "/jobs/{job_id}/complete",
        "/jobs/{job_id}/fail",
        "/jobs/{job_id}/consumers/{consumer}",
    }
    for operations in document["paths"].values():
        responses = set(operations["post"]["responses"])
        assert {"401", "409", "422", "503"} <= responses
        assert {"200", "204"} & responses


async def test_a_server_that_is_away_is_a_named_passing_failure() -> None:
    """Say it again: nothing is done twice."""
    async with JobsClient("http://127.0.0.1:9", SecretStr(ROTATOR)) as jobs:
        with pytest.raises(JobStoreUnavailable):
            await jobs.claim()


@pytest.mark.parametrize(
    ("body", "status"), [(b"<html>", 502), (b"[]", 500), (b'{"kind": "x"}', 409), (b"", 404), (b"{}", 200)]
)
async def test_whatever_answers_is_an_error_of_ours(body: bytes, status: int) -> None:
    """A proxy's page, an empty body, another service's JSON."""
    from pydantic import ValidationError

    from keyturn.errors import KeyturnError

    transport = httpx.MockTransport(lambda _request: httpx.Response(status, content=body))
    async with JobsClient("http://jobs", SecretStr(ROTATOR), transport=transport) as jobs:
        with pytest.raises((KeyturnError, ValidationError)):
            await jobs.claim()


async def test_the_example_worker_carries_out_every_job_once(api: Api) -> None:
    """As it stands in examples/, three of them at once; a kind that it does not know is left for another."""
    made = {await api.make() for _ in range(30)}
    unknown = await api.make(kind="user_password")
    environment = {"KEYTURN_JOBS_URL": api.url, "KEYTURN_JOBS_TOKEN": ROTATOR, "IDLE_SECONDS": "0.1", "PATH": ""}
    claims = JobLeases(api.engine)

    async def ended() -> list[Any]:
        return [row for row in await api.store.jobs(tenant_id="default", limit=100) if row["status"] == "done"]

    command = [sys.executable, str(EXAMPLE)]
    async with (
        child(command, environment=environment),
        child(command, environment=environment),
        child(command, environment=environment),
        asyncio.timeout(60),
    ):
        while len(await ended()) < 30:
            await asyncio.sleep(0.1)
    assert {row["job_id"] for row in await ended()} == made
    assert (await claims.show(unknown, tenant_id="default"))[0]["status"] == "open"
    for job_id in made:
        _, rows = await claims.show(job_id, tenant_id="default")
        assert [row["event"] for row in rows] == ["created", "claimed", "rotating", "done"]
        assert rows[-1]["detail"]["by"] == "examples/worker.py"


def test_the_interfaces_settings_are_checked_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller belongs to a tenant; no token is repeated."""
    monkeypatch.setenv("KEYTURN_JOBS_ADDRESS", "nowhere")
    monkeypatch.setenv("KEYTURN_JOBS_TOKENS", f"rotator:{ROTATOR}")
    with pytest.raises(SettingsInvalid) as caught:
        load_jobs_settings()
    assert "KEYTURN_JOBS_ADDRESS: is not HOST:PORT" in str(caught.value)
    assert "KEYTURN_JOBS_TOKENS: rotator is not TENANT/NAME" in str(caught.value)
    assert ROTATOR not in str(caught.value)
    assert json.dumps(str(caught.value))
