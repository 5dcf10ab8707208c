"""Temporal holds ciphertext: on a real server, for the client, the worker and the replayer, as keys come and go."""

import asyncio
import base64
import tracemalloc
import uuid
import zlib
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from keyturn.application.answers import answer
from keyturn.application.connection import connect
from keyturn.application.encryption import (
    CONTEXT,
    ENCODING,
    KEY_ID,
    MAX_PAYLOAD_BYTES,
    EncryptionCodec,
    encryption_plugin,
)
from keyturn.application.following import progress_of
from keyturn.application.requests import id_of
from keyturn.application.rotation_status import outcome_of
from keyturn.application.rotations import rotate, start_or_attach
from keyturn.jobs.store import JobStore
from keyturn.payload_errors import PayloadKeyUnknown, PayloadNotAuthentic, PayloadNotEncrypted, PayloadTooLarge
from keyturn.rotations.contracts import Approval
from keyturn.rotations.outcomes import JobCreated
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.cases import QUESTION, request
from tests.support.keys import KEYRING, NEWER, OLDER, ring
from tests.support.record_histories import Place
from tests.support.workers_for_tests import ELIGIBLE, Script, with_approval, worker_on

PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"some words"')


def codec(namespace: str = "default", **changed: Any) -> EncryptionCodec:
    return EncryptionCodec(ring(NEWER, **changed), namespace)


async def encrypted_by(one: EncryptionCodec) -> Payload:
    [encrypted] = await one.encode([PLAIN])
    return encrypted


def altered(payload: Payload, **changed: Any) -> Payload:
    other = Payload()
    other.CopyFrom(payload)
    for name, value in changed.items():
        if name == "data":
            other.data = value
        else:
            other.metadata[{"key_id": KEY_ID}.get(name, name)] = value
    return other


async def test_a_payload_tells_its_key_and_nothing_else() -> None:
    """No length of a field, no type, no name: a nonce, and noise."""
    encrypted = await encrypted_by(codec())
    assert dict(encrypted.metadata) == {"encoding": ENCODING, KEY_ID: b"newer", CONTEXT: b""}
    assert b"words" not in encrypted.data
    assert await codec().decode([encrypted]) == [PLAIN]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda one: altered(one, data=one.data[:-1] + bytes([one.data[-1] ^ 1])), PayloadNotAuthentic),
        (lambda one: altered(one, data=one.data[:20]), PayloadNotAuthentic),
        (lambda one: altered(one, data=b""), PayloadNotAuthentic),
        (lambda one: altered(one, data=one.data + b"x"), PayloadNotAuthentic),
        (lambda one: altered(one, data=b"foreign bytes of some length " * 9), PayloadNotAuthentic),
        (lambda one: altered(one, key_id=b"older"), PayloadKeyUnknown),
        (lambda one: altered(one, key_id=b""), PayloadKeyUnknown),
        (lambda one: altered(one, key_id=b"\xff\xfe" * 500), PayloadKeyUnknown),
        (lambda one: altered(one, data=b"x" * 10_000_000), PayloadTooLarge),
        (lambda one: PLAIN, PayloadNotEncrypted),
        (lambda one: altered(one, encoding=b"binary/plain"), PayloadNotEncrypted),
    ],
    ids=[
        "a changed bit",
        "cut",
        "empty",
        "longer",
        "foreign",
        "an unknown key",
        "no key",
        "a hostile key id",
        "10 MB",
        "plain",
        "another encoding",
    ],
)
async def test_what_cannot_be_opened_is_refused_by_its_name(change: Any, error: type[Exception]) -> None:
    """And nothing of it is shown, however long."""
    encrypted = await encrypted_by(codec())
    with pytest.raises(error) as caught:
        codec().decrypt_payload(change(encrypted))
    assert len(str(caught.value)) < 200


async def test_a_payload_does_not_open_in_another_namespace() -> None:
    """Moved there, it is refused."""
    with pytest.raises(PayloadNotAuthentic, match="another namespace"):
        codec("production").decrypt_payload(await encrypted_by(codec("staging")))


async def test_a_payload_that_temporal_would_never_take_is_refused_before_it_is_sent() -> None:
    """The server's own refusal would be retried for ever."""
    with pytest.raises(PayloadTooLarge, match="the limit is"):
        await codec().encode([Payload(data=b"x" * (MAX_PAYLOAD_BYTES + 1))])


async def test_a_payload_with_repeated_words_is_encrypted_in_fewer_bytes() -> None:
    """The prompts and policy lines of a history are of this kind."""
    long = Payload(metadata={"encoding": b"json/plain"}, data=b'"' + b"the same words again. " * 200 + b'"')
    [encrypted] = await codec().encode([long])
    assert len(encrypted.data) < len(long.data) / 10
    assert await codec().decode([encrypted]) == [long]


def encrypted_as_it_is(payload: Payload) -> Payload:
    """Encrypted without a compression of ours: as an earlier release did, or another holder of the key might."""
    key_id, data = ring(NEWER).encrypt(payload.SerializeToString(), b"keyturn-payload-v2\0default\0")
    return Payload(metadata={"encoding": ENCODING, KEY_ID: key_id.encode(), CONTEXT: b""}, data=data)


def compressed(data: bytes) -> Payload:
    return Payload(metadata={"encoding": b"binary/zlib-1"}, data=data)


async def test_a_payload_that_was_compressed_by_an_earlier_release_is_read() -> None:
    """Were the dictionary of a form changed, no history in that form could be read any more."""
    recorded = base64.b64decode(b"eLtJzNMq4xLj4gD6OB/UDRDiygI6SR+Y+DLzhLyrKcmfoLYp0H5wnoutBQC3FiJK")
    proposal = b'{"decision":"eligible","rotation_window_days":30,"source_line_ids":["P-7"]}'
    opened = codec().decrypt_payload(encrypted_as_it_is(compressed(recorded)))
    assert opened == Payload(metadata={"encoding": b"json/plain"}, data=proposal)


async def test_a_payload_that_was_encrypted_without_compression_is_read() -> None:
    """As those of histories from before payloads were compressed."""
    assert codec().decrypt_payload(encrypted_as_it_is(PLAIN)) == PLAIN


@pytest.mark.parametrize(
    ("inner", "error"),
    [
        (compressed(zlib.compress(b"x" * 50_000_000)), PayloadTooLarge),
        (compressed(zlib.compress(PLAIN.SerializeToString())[:-3]), PayloadNotAuthentic),
        (compressed(b"no stream"), PayloadNotAuthentic),
        (compressed(zlib.compress(b"\xff" * 9)), PayloadNotAuthentic),
        (compressed(b""), PayloadNotAuthentic),
    ],
    ids=["50 MB in 50 kB", "cut", "no stream", "no payload", "empty"],
)
async def test_a_compressed_payload_that_cannot_be_read_is_refused_by_its_name(inner: Payload, error: Any) -> None:
    """However large it would become."""
    with pytest.raises(error):
        codec().decrypt_payload(encrypted_as_it_is(inner))


async def test_a_payload_that_would_become_huge_takes_no_memory() -> None:
    """What lies beyond the limit is not decompressed at all."""
    huge = encrypted_as_it_is(compressed(zlib.compress(b"x" * 50_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            codec().decrypt_payload(huge)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_PAYLOAD_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("data", "is_read"), [(b'"ACTIVITY_ID_NOT_STARTED"', True), (b'"ACTIVITY_ID_STARTED"', False)])
async def test_of_plain_payloads_only_the_servers_own_word_is_read(data: bytes, is_read: bool) -> None:
    """It stands in the history of an activity that was cancelled before a worker had begun it."""
    (opened,) = await EncryptionCodec(KEYRING, "default").decode(
        [Payload(metadata={"encoding": b"json/plain"}, data=data)]
    )
    assert (opened.data == data) == is_read


async def test_development_reads_plain_payloads_too() -> None:
    """So that a command-line tool may be used there; production does not."""
    assert await codec(accepts_plain=True).decode([PLAIN]) == [PLAIN]


async def test_a_history_is_ciphertext_and_replays_with_its_key(temporal: Client, sqlite_store: JobStore) -> None:
    """One plugin for the client, the worker on it, and the replayer; without it a replay has nothing to read."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store):
        _, outcome = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
    assert isinstance(outcome, JobCreated)
    history = await temporal.get_workflow_handle(id_of(asked)).fetch_history()
    for private in (QUESTION, 'acct_10234"', outcome.job_id, "eligible", "source_line_ids"):
        assert private not in history.to_json()
    replayer = Replayer(
        workflows=[RotationWorkflow],
        workflow_runner=SandboxedWorkflowRunner(),
        plugins=[encryption_plugin(KEYRING, "default")],
    )
    assert (await replayer.replay_workflow(history)).replay_failure is None
    stranger = Replayer(workflows=[RotationWorkflow], plugins=[encryption_plugin(ring(OLDER), "default")])
    failed = await stranger.replay_workflow(history, raise_on_replay_failure=False)
    assert failed.replay_failure is not None


async def test_keys_rotate_while_rotations_run(temporal: Client, sqlite_store: JobStore) -> None:
    """Encrypted under the old key, taken up by a worker that has both, answered under the new one, read by all."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    address = temporal.service_client.config.target_host
    before = await connect(address, keyring=ring(OLDER))
    during = await connect(address, keyring=ring(NEWER, OLDER))
    rotation = await start_or_attach(before, asked, task_queue=queue)
    async with worker_on(during, queue, Script(ELIGIBLE), sqlite_store):
        outcome = await outcome_of((await start_or_attach(during, asked, task_queue=queue)).handle)
    assert isinstance(outcome, JobCreated)
    with pytest.raises(PayloadKeyUnknown, match="under the key newer"):
        await rotation.handle.result()


async def test_a_worker_without_the_key_stops_at_it_and_one_with_it_goes_on(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """Nothing is lost to a wrong key: the rotation waits, says so, and is finished once the key is there."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    stranger = await connect(temporal.service_client.config.target_host, keyring=ring(OLDER))
    rotation = await start_or_attach(temporal, asked, task_queue=queue)
    async with worker_on(stranger, queue, Script(ELIGIBLE), sqlite_store), asyncio.timeout(20):
        while "workers have failed" not in str(await progress_of(rotation.handle)):
            await asyncio.sleep(0.05)
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store):
        assert isinstance(await outcome_of(rotation.handle), JobCreated)


async def test_a_stranger_without_a_key_cannot_start_or_approve_anything(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """A writer to the namespace without a key sends plain payloads, and no worker acts on those."""
    queue, asked = f"test-{uuid.uuid4().hex}", request(question="Mallory's own words")
    mallory = await Client.connect(temporal.service_client.config.target_host, data_converter=pydantic_data_converter)
    script = Script(ELIGIBLE)
    async with worker_on(temporal, queue, script, sqlite_store):
        handle = await mallory.start_workflow(RotationWorkflow.run, asked, id=id_of(asked), task_queue=queue)
        async with asyncio.timeout(20):
            while (await handle.describe()).raw_description.pending_workflow_task.attempt < 2:
                await asyncio.sleep(0.05)
        await handle.terminate()
    assert script.calls == 0
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


async def test_an_approval_that_is_not_encrypted_is_not_one_and_the_next_one_is(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """Neither a plain one nor one of another installation's key counts; both are refused, and it waits on."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    address = temporal.service_client.config.target_host
    strangers = [
        await Client.connect(address, data_converter=pydantic_data_converter),
        await connect(address, keyring=ring(OLDER)),
    ]
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store, catalogue=with_approval()):
        rotation = await start_or_attach(temporal, asked, task_queue=queue)
        place = Place(temporal, rotation.handle, asked.credential.key_id, queue)
        digest = await place.digest_at("awaiting_approval")
        approval = Approval(approver="omar", digest=digest)
        for stranger in strangers:
            theirs = stranger.get_workflow_handle(id_of(asked))
            with pytest.raises(WorkflowUpdateFailedError):
                await theirs.execute_update("approve", approval)
        assert await sqlite_store.jobs(tenant_id="default", limit=10) == []
        await answer(rotation.handle, "approve", approval)
        assert isinstance(await outcome_of(rotation.handle), JobCreated)
