"""A reported key's rotation starts at once: by the webhook, the desk's API and on top of every queue."""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from keyturn.application.exposures import ExposedKeys
from keyturn.application.rotations import wait_for_outcome
from keyturn.application.runs import BULK_PRIORITY
from keyturn.exposures.contracts import KnownKey
from keyturn.exposures.errors import NoExposureLine, PublicKeysUnavailable, UnknownKey
from keyturn.exposures.store import ExposureStore
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import URGENT
from keyturn.llm.http import http_client
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.rotations.outcomes import JobCreated
from keyturn.web.serving import served
from keyturn.workers.deliveries import DeliveryStarts
from keyturn.workers.leaks import PATH, PublicKeys, leaks_application
from keyturn.workers.run_rotations import RunRotations
from keyturn.workflows.delivery import delivery_id
from tests.support.cases import facts, order, request
from tests.support.workers_for_tests import Script, worker_on

CATALOGUE = load_catalogue()
KEY = "AKIAIOSFODNN7EXAMPLE"
SAID = '{"decision":"eligible","rotation_window_days":null,"source_line_ids":["P-EXPOSED"]}'
SIGNER = ec.generate_private_key(ec.SECP256R1())


def reports(client: Client, engine: AsyncEngine, queue: str, **changed: Any) -> ExposedKeys:
    named: dict[str, Any] = {"tenant": "default", "task_queue": queue}
    return ExposedKeys(client, CATALOGUE, ExposureStore(engine), **named | changed)


async def known(store: JobStore, account: str = "svc-pay") -> str:
    """A key that a job knows."""
    ordered = order(account_id=account, credential=facts(key_id=KEY))
    return (await store.create_once(ordered, idempotency_key=f"r:{account}", fence=1)).job_id


async def test_a_reported_key_gets_an_urgent_job_once_however_often_it_is_reported(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    """Of an open job under another line, too: that one becomes urgent, and is first in every queue."""
    queue = f"test-{uuid.uuid4().hex}"
    job_id = await known(sqlite_store)
    said = reports(temporal, sqlite_engine, queue)
    async with worker_on(temporal, queue, Script(SAID), sqlite_store):
        [key] = await said.keys_of(KEY, None, None)
        found = await asyncio.gather(*(said.report(key, source="github", reported_by="scan") for _ in range(5)))
        outcomes = [await wait_for_outcome(rotation.handle) for _, rotation in found]
    assert sum(reported.is_new for reported, _ in found) == 1
    assert {outcome.job_id for outcome in outcomes if isinstance(outcome, JobCreated)} == {job_id}
    [job] = await sqlite_store.jobs(tenant_id="default", limit=10)
    assert job["priority"] == URGENT
    assert set(job["policy_lines"]) == {"P-7@1", "P-EXPOSED@1"}
    claims = JobLeases(sqlite_engine)
    claimed = await claims.claim_next(tenant_id="default", owner="x", lease=timedelta(minutes=1))
    assert claimed is not None
    assert (claimed.job_id, claimed.priority) == (job_id, "urgent")


async def test_by_rule_no_model_is_asked_and_the_workflow_comes_before_others(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    queue, script = f"test-{uuid.uuid4().hex}", Script(RuntimeError("a provider that is down"))
    said = reports(temporal, sqlite_engine, queue, decide_by="rule")
    async with worker_on(temporal, queue, script, sqlite_store):
        key = KnownKey("svc-new", "key_01", "access_key", "payments")
        reported, rotation = await said.report(key, source="gitleaks", reported_by="scan")
        outcome = await wait_for_outcome(rotation.handle)
    assert isinstance(outcome, JobCreated)
    assert script.calls == 0
    [job] = await sqlite_store.jobs(tenant_id="default", limit=10)
    assert (job["owner"], job["requested_by"]) == ("payments", "scan")
    description = await temporal.get_workflow_handle(reported.workflow_id).describe()
    assert description.raw_description.workflow_execution_info.priority.priority_key == 1


async def test_what_no_one_knows_or_no_line_covers_is_refused_by_name(
    temporal: Client, sqlite_engine: AsyncEngine
) -> None:
    said = reports(temporal, sqlite_engine, "none")
    with pytest.raises(UnknownKey):
        await said.keys_of("AKIANOTHERE", None, None)
    assert await said.keys_of("AKIANOTHERE", "svc-x", "access_key") == [
        KnownKey("svc-x", "AKIANOTHERE", "access_key", None)
    ]
    bare = ExposedKeys(
        temporal, Catalogue([CATALOGUE.current("P-7")]), ExposureStore(sqlite_engine), tenant="t", task_queue="none"
    )
    with pytest.raises(NoExposureLine):
        await bare.report(KnownKey("svc-x", "key_01", "access_key"), source="github", reported_by="scan")
    assert list(await ExposureStore(sqlite_engine).exposed(tenant_id="t")) == [("svc-x", "key_01")]


@asynccontextmanager
async def webhook(said: ExposedKeys, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    public = SIGNER.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    file = folder / "keys.json"
    file.write_text(json.dumps({"public_keys": [{"key_identifier": "ours", "key": public.decode()}]}))
    async with http_client(4) as http:
        application = leaks_application(said, PublicKeys(str(file), http, known_for=timedelta(hours=1)))
        async with (
            served(application, "127.0.0.1:0", setting="KEYTURN_LEAKS_ADDRESS") as url,
            httpx.AsyncClient(base_url=url) as client,
        ):
            yield client


def signed(body: bytes, by: ec.EllipticCurvePrivateKey = SIGNER, name: str = "ours") -> dict[str, Any]:
    signature = base64.b64encode(by.sign(body, ec.ECDSA(SHA256()))).decode()
    headers = {"Github-Public-Key-Identifier": name, "Github-Public-Key-Signature": signature}
    return {"content": body, "headers": headers}


async def test_the_webhook_takes_a_signed_report_and_answers_by_hash(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine, tmp_path: Path, caplog: Any
) -> None:
    """The token that was found appears nowhere."""
    queue = f"test-{uuid.uuid4().hex}"
    await known(sqlite_store)
    secret = f"aws_access_key_id={KEY} aws_secret_access_key=wJalrXUtnFEMI/K7MDENG"
    matches = [{"token": secret, "type": "aws", "url": "u", "source": "content"}, {"token": "x", "type": "t"}]
    matches.append({"token": "AKIAOFNOBODYKNOWN000", "type": "aws", "url": "https://github.com/o/r/blob/main/.env"})
    body, events = json.dumps(matches), list[str]()
    async with (
        webhook(reports(temporal, sqlite_engine, queue), tmp_path) as http,
        worker_on(temporal, queue, Script(SAID), sqlite_store),
    ):
        for _ in range(2):
            with structlog.testing.capture_logs() as logged:
                answer = await http.post(PATH, **signed(body.encode()))
            events += [str(event) for event in logged]
            assert answer.status_code == 200
            # Of what is not known, nothing is said: it may be real all the same.
            assert [one["label"] for one in answer.json()] == ["true_positive"]
        async with asyncio.timeout(30):
            while (await sqlite_store.jobs(tenant_id="default", limit=10))[0]["priority"] != URGENT:
                await asyncio.sleep(0.1)
    assert "wJalrXUtnFEMI" not in answer.text + caplog.text
    assert [one for one in events if "leak_of_an_unknown_key" in one], "it is logged, once it is marked"
    assert "AKIA" not in "".join(events), "without its ID, which is half of the key"
    rows = await ExposureStore(sqlite_engine).listed(tenant_id="default", limit=10)
    assert "wJalrXUtnFEMI" not in str(rows)
    found = {(row["account_id"], row["key_id"], row["place"]) for row in rows}
    assert found == {
        ("svc-pay", KEY, "u"),
        (None, "AKIAOFNOBODYKNOWN000", "https://github.com/o/r/blob/main/.env"),
    }


async def test_an_exposed_key_comes_first_in_a_runs_queue_and_among_deliveries(temporal: Client) -> None:
    """Temporal hands out tasks of a lower number first."""

    async def priority_of(workflow_id: str) -> int:
        handle = temporal.get_workflow_handle(workflow_id)
        described = await handle.describe()
        await handle.terminate()
        found: int = described.raw_description.workflow_execution_info.priority.priority_key
        return found

    rotations, found = RunRotations(temporal, f"nobody-{uuid.uuid4().hex}"), []
    for exposed in (True, None):
        asked = request(account_id=f"acct_{uuid.uuid4().hex[:8]}", credential=facts(compromised=exposed))
        found.append(await priority_of(await rotations.start(asked)))
    assert found == [1, BULK_PRIORITY]
    starts, job = DeliveryStarts(temporal, f"nobody-{uuid.uuid4().hex}"), f"job_{uuid.uuid4().hex}"
    await starts.announce(job, urgent=True)
    assert await priority_of(delivery_id(job)) == 1


async def test_a_copied_report_brings_no_cancelled_job_back(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine, tmp_path: Path
) -> None:
    """Its signature names no time. A person who says it again replaces the job."""

    class Known(ExposureStore):
        async def find_key(self, key_id: str, *, tenant_id: str) -> list[KnownKey]:
            return [KnownKey("svc-new", key_id, "access_key")]

    queue = f"test-{uuid.uuid4().hex}"
    said = ExposedKeys(temporal, CATALOGUE, Known(sqlite_engine), tenant=f"t-{queue[-8:]}", task_queue=queue)
    report = signed(json.dumps([{"token": KEY, "type": "aws"}]).encode())
    async with webhook(said, tmp_path) as http, worker_on(temporal, queue, Script(*[SAID] * 3), sqlite_store):

        async def states() -> list[str]:
            handle = temporal.get_workflow_handle(f"rotate:{said.tenant}:svc-new:{KEY}:P-EXPOSED@1")
            await handle.result()
            return sorted(job["status"] for job in await sqlite_store.jobs(tenant_id=said.tenant, limit=10))

        assert (await http.post(PATH, **report)).status_code == 200
        assert await states() == ["open"]
        [job] = await sqlite_store.jobs(tenant_id=said.tenant, limit=10)
        await JobLeases(sqlite_engine).cancel(job["job_id"], tenant_id=said.tenant, actor="omar", reason="a test key")
        assert (await http.post(PATH, **report)).status_code == 200
        assert await states() == ["cancelled"]
        await said.report(KnownKey("svc-new", KEY, "access_key"), source="github", reported_by="omar")
        assert await states() == ["cancelled", "open"]


async def test_forged_reports_do_not_hold_up_those_whose_key_is_known() -> None:
    """While the list cannot be read, and of each forged one no look is made; old keys count for another day."""
    looks, hangs = 0, asyncio.Event()

    class Host(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal looks
            looks += 1
            if looks > 1:
                await hangs.wait()
                raise httpx.ConnectError("down")
            public = SIGNER.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return httpx.Response(200, json={"public_keys": [{"key_identifier": "ours", "key": public.decode()}]})

    async with httpx.AsyncClient(transport=Host()) as http:
        keys = PublicKeys("https://keys.example", http, known_for=timedelta(hours=1))
        assert await keys.find("ours")
        keys._tried_at -= 100
        forged = [asyncio.create_task(keys.find("theirs")) for _ in range(20)]
        await asyncio.sleep(0)
        async with asyncio.timeout(2):
            assert await keys.find("ours")
        hangs.set()
        assert {type(error) for error in await asyncio.gather(*forged, return_exceptions=True)} == {
            PublicKeysUnavailable
        }
        assert looks == 2
        keys._read_at -= 3_601
        assert await keys.find("ours")
        keys._read_at -= 86_400
        with pytest.raises(PublicKeysUnavailable):
            await keys.find("ours")


async def test_a_forged_or_unsigned_report_changes_nothing(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine, tmp_path: Path
) -> None:
    await known(sqlite_store)
    body = json.dumps([{"token": KEY, "type": "aws"}]).encode()
    wrong = ec.generate_private_key(ec.SECP256R1())
    attempts: list[dict[str, Any]] = [
        {"content": body},
        signed(body, wrong),
        signed(body, wrong, name="theirs"),
        signed(body) | {"content": body + b" "},
    ]
    async with webhook(reports(temporal, sqlite_engine, "none"), tmp_path) as http:
        for attempt in attempts:
            refused = await http.post(PATH, **attempt)
            assert (refused.status_code, refused.json()["kind"]) == (401, "report_forged")
        assert (await http.post(PATH, **signed(b"{}"))).status_code == 422
        assert (await http.get(PATH)).status_code == 405
    assert await ExposureStore(sqlite_engine).exposed(tenant_id="default") == {}


async def test_while_the_public_keys_cannot_be_read_a_report_is_put_off(
    temporal: Client, sqlite_engine: AsyncEngine, tmp_path: Path
) -> None:
    """Answered 503, so that it is sent again; and the keys are looked for again."""
    async with webhook(reports(temporal, sqlite_engine, "none"), tmp_path) as http:
        held = (tmp_path / "keys.json").read_text()
        (tmp_path / "keys.json").unlink()
        body = b'[{"token": "x", "type": "t"}]'
        assert (await http.post(PATH, **signed(body))).status_code == 503
        (tmp_path / "keys.json").write_text(held)
        assert (await http.post(PATH, **signed(body))).status_code == 200
