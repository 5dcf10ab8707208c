"""Encrypted payloads against plain ones: the same workflow, the same server, in turn; and the codec server's rate."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
from google.protobuf.json_format import MessageToDict
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.client import Client

from benchmarks.results import Result, compared
from benchmarks.workflows import latencies_of, rate_of
from keyturn.application.connection import connect
from keyturn.application.encryption import EncryptionCodec, names_of
from keyturn.application.requests import id_of
from keyturn.database import database_url, open_database
from keyturn.jobs.store import JobStore
from keyturn.keyring_files import new_keyring_text, parse_keyring
from keyturn.lab.stack.temporal import dev_server
from keyturn.web.serving import served
from keyturn.workers.codec import CodecServer
from keyturn.workers.schema import migrate
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.cases import request
from tests.support.workers_for_tests import ELIGIBLE, Script, worker_on

Run = Callable[[], Awaitable[object]]
TOKEN = "a_token_of_the_benchmarks_0123456789"


async def measure(*, rounds: int, one_by_one: int, at_once: int) -> list[Result]:
    """Return latency, throughput and history bytes encrypted against plain, and the codec's requests a second."""
    async with _both() as (encrypted, plain, sizes):
        await latencies_of(encrypted, 20), await latencies_of(plain, 20)
        p50: tuple[list[float], list[float]] = ([], [])
        rate: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for side, run in enumerate((encrypted, plain)):
                p50[side].append(statistics.median(await latencies_of(run, one_by_one)) * 1000)
            for side, run in enumerate((encrypted, plain)):
                rate[side].append(await rate_of(run, at_once, 50))
        encrypted_bytes, plain_bytes = await sizes()
    return [
        compared("encrypted / plain workflow latency p50", *p50, unit="ms", target=1.1),
        compared("encrypted / plain workflows/s at 50", *rate, unit="/s", at="least", target=0.9),
        compared("encrypted / plain history bytes", [encrypted_bytes], [plain_bytes], unit="bytes", target=1.6),
        await _codec(rounds),
    ]


@asynccontextmanager
async def _both() -> AsyncIterator[tuple[Run, Run, Callable[[], Awaitable[tuple[float, float]]]]]:
    """The same worker twice on one server, but for the keyring of its client."""
    async with AsyncExitStack() as parts:
        folder = parts.enter_context(tempfile.TemporaryDirectory())
        url = database_url(f"sqlite:///{folder}/keyturn.db")
        migrate(url)
        engine = open_database(url)
        parts.push_async_callback(engine.dispose)
        plain = await parts.enter_async_context(dev_server())
        keyring = parse_keyring(new_keyring_text(), source="benchmarks")
        encrypted = await connect(plain.service_client.config.target_host, keyring=keyring)
        store = JobStore(engine)
        for name, client in (("encrypted", encrypted), ("plain", plain)):
            await parts.enter_async_context(worker_on(client, name, Script(ELIGIBLE), store))

        def run_on(client: Client, queue: str) -> Run:
            async def run() -> str:
                asked = request()
                workflow_id = id_of(asked, names_of(client))
                await client.execute_workflow(RotationWorkflow.run, asked, id=workflow_id, task_queue=queue)
                return workflow_id

            return run

        async def sizes() -> tuple[float, float]:
            bytes_sent = []
            for name, client in (("encrypted", encrypted), ("plain", plain)):
                history = await client.get_workflow_handle(str(await run_on(client, name)())).fetch_history()
                bytes_sent.append(float(sum(event.ByteSize() for event in history.events)))
            return bytes_sent[0], bytes_sent[1]

        yield run_on(encrypted, "encrypted"), run_on(plain, "plain"), sizes


async def _codec(rounds: int) -> Result:
    """Decoding ten payloads of 2 kB, a page of history, 16 requests at once; against the server's own bare answer."""
    keyring = parse_keyring(new_keyring_text(), source="benchmarks", accepts_plain=True)
    payload = Payload(metadata={"encoding": b"json/plain"}, data=b'"' + b"x" * 2_000 + b'"')
    body = MessageToDict(Payloads(payloads=await EncryptionCodec(keyring, "default").encode([payload] * 10)))
    server = CodecServer(keyring, {"bench": SecretStr(TOKEN)}, frozenset())
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Namespace": "default"}
    decode: list[float] = []
    bare: list[float] = []
    async with (
        served(server.application(), "127.0.0.1:0", setting="KEYTURN_CODEC_ADDRESS") as url,
        aiohttp.ClientSession(headers=headers) as http,
    ):

        async def one_decode() -> None:
            async with http.post(f"{url}/decode", json=body) as answer:
                assert len((await answer.json())["payloads"]) == 10

        async def one_bare() -> None:
            async with http.get(f"{url}/healthz") as answer:
                await answer.read()

        for number in range(rounds + 1):
            for figures, one in ((decode, one_decode), (bare, one_bare)):
                rate = await _requests_a_second(one, 800, 16)
                if number:  # the first round warms up
                    figures.append(rate)
    return compared("codec server, decode / its bare answer", decode, bare, unit="requests/s", at="least")


async def _requests_a_second(one: Callable[[], Awaitable[None]], count: int, at_once: int) -> float:
    async def lane() -> None:
        for _ in range(count // at_once):
            await one()

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(at_once)))
    return count / (time.perf_counter() - began)
