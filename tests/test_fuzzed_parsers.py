"""Every parser that meets the outside, fed with stored samples and with damaged forms of them.

The samples are in `tests/corpora/parsers`, a folder each; what ever broke a parser is put there, and stays. `make test`
has a short form; `make fuzz` as many as it is given.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload

from keyturn.application.encryption import EncryptionCodec
from keyturn.bulk.contracts import BulkSource
from keyturn.bulk.load import digest_of
from keyturn.database import database_url
from keyturn.desk.settings import parse_networks, parse_roles
from keyturn.errors import KeyturnError
from keyturn.inventory.read import read
from keyturn.inventory.scans import read_scans
from keyturn.inventory.source import Inventory
from keyturn.keyring_files import parse_keyring
from keyturn.lab.stack.loopback import loopback_client
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.http import HttpModelClient
from keyturn.llm.providers import load_providers
from keyturn.llm.providers.anthropic.batches import AnthropicBatches
from keyturn.llm.providers.openai.batches import OpenAiBatches
from keyturn.llm.routing import parse_routes
from keyturn.policy.catalogue import load_catalogue
from keyturn.settings import host_and_port
from keyturn.tasks.registry import load_tasks
from keyturn.tokens import parse_tokens
from keyturn.workers.rate_card import read_rate_card
from tests.support.boundaries import WIRES, endpoint, guarded
from tests.support.cases import request
from tests.support.keys import KEYRING, KEYS_TEXT
from tests.support.workers_for_tests import Script

CORPORA = Path(__file__).parent / "corpora" / "parsers"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))  # a sample each
NOW = datetime(2026, 11, 21, tzinfo=UTC)
KEY = SecretStr("key_for_tests")
# What parsers stumble on: ends of formats, numbers past their limits, names that mean something to Python or JSON.
TOKENS = [
    *(b'"', b"'", b",", b"\n", b"\r\n", b"\r", b"\t", b"\0", b"{", b"}", b"[", b"]", b":", b"=", b"\\", b"\xff"),
    *(b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-1", b"9" * 30, b"0x1f", b"2026-13-45T99:99:99Z"),
    *(b"\xef\xbb\xbf", "\u202e".encode(), "\ud7ff".encode(), b"\\ud800", b"=cmd()", b"data: ", b"event: x\n"),
    *(b"__class__", b"$ref", b"..", b"%00", b"[" * 3_000, b'{"a":' * 1_500, b"N/A", b"no_information", b"9999-12-31"),
]


@st.composite
def damaged(draw: st.DrawFn, sample: bytes, others: list[bytes]) -> bytes:
    """A sample with some bytes changed, cut out, doubled, or put in from elsewhere."""
    data = bytearray(sample)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        until = min(len(data), at + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["set", "cut", "double", "token", "token", "end", "splice"])):
            case "set":
                data[at:until] = draw(st.binary(max_size=8))
            case "cut":
                del data[at:until]
            case "double":
                data[at:at] = data[at:until]
            case "token":
                data[at:until] = draw(st.sampled_from(TOKENS))
            case "end":
                del data[at:]
            case "splice":
                other = draw(st.sampled_from(others))
                data[at:until] = other[draw(st.integers(0, len(other))) :][:400]
    return bytes(data)


def in_a_file(work: Callable[[Path], Any]) -> Callable[[bytes, str], Any]:
    def done(data: bytes, name: str) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            file.write_bytes(data)
            return work(file)

    return done


def as_text(work: Callable[[str], Any]) -> Callable[[bytes, str], Any]:
    return lambda data, _name: work(data.decode("utf-8", "replace"))


def inventory(file: Path) -> Any:
    asyncio.run(digest_of(BulkSource(path=str(file), policies=("P-7",), question="x", observed_at=NOW), file))
    return list(read(Inventory(file=file, observed_at=NOW)))


def replying(data: bytes, kind: str) -> httpx.AsyncClient:
    def answer(asked: httpx.Request) -> httpx.Response:
        if asked.url.path.startswith("/v1/batches/"):  # where its answers are
            return httpx.Response(200, json={"id": "b", "status": "completed", "output_file_id": "f"})
        if "/batches/" in asked.url.path and not asked.url.path.endswith("/results"):
            completion = {
                "id": "b",
                "processing_status": "ended",
                "results_url": "http://provider/v1/messages/batches/b/results",
            }
            return httpx.Response(200, json=completion)
        return httpx.Response(200, headers={"content-type": kind}, stream=httpx.ByteStream(data))

    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


async def completed(data: bytes, wire: str, *, streamed: bool) -> Any:
    kind = "text/event-stream" if streamed else "application/json"
    boundary = ModelBoundary({"*": [Script("")]}, load_catalogue(), guard=guarded(), record=lambda _: None)
    async with replying(data, kind) as http:
        provider = HttpModelClient(http, endpoint(wire, "http://provider", key=KEY), "m")
        timeouts = Timeouts(connect=5, first_byte=5, total=5)
        heard: list[str] = []
        on_text = heard.append if streamed else None
        prompt = boundary.prompt_of(request())
        return await provider.complete(prompt, timeouts=timeouts, trace_id="t", on_text=on_text)


def answers(data: bytes, name: str) -> Any:
    wire = name.partition(".")[0]
    return asyncio.run(completed(data, wire if wire in WIRES else "openai", streamed=False))


def streams(data: bytes, name: str) -> Any:
    return asyncio.run(completed(data, name.partition(".")[0], streamed=True))


def batches(data: bytes, name: str) -> Any:
    async def all_of() -> Any:
        async with replying(data, "application/jsonl") as http:
            asked: Any = (
                OpenAiBatches(http, endpoint("openai", "http://provider/v1", key=KEY), "m")
                if name.startswith("openai")
                else AnthropicBatches(http, endpoint("anthropic", "http://provider", key=KEY), "m")
            )
            return [one async for one in asked.answers("b")]

    return asyncio.run(all_of())


def payload(data: bytes, _name: str) -> Any:
    return EncryptionCodec(KEYRING, "default").decrypt_payload(Payload.FromString(data))


SETTINGS: dict[str, Callable[[str], Any]] = {
    "routes.txt": lambda text: parse_routes(text, load_tasks(), load_providers()),
    "tokens.txt": parse_tokens,
    "networks.txt": parse_networks,
    "roles.txt": parse_roles,
    "database.txt": database_url,
    "address.txt": host_and_port,
}


def setting(data: bytes, name: str) -> Any:
    if name.endswith(".toml"):
        return in_a_file(read_rate_card)(data, name)
    return as_text(SETTINGS[name])(data, name)


@dataclass(frozen=True)
class Parser:
    """What is fed with bytes and a sample's name, and by which errors it may refuse them."""

    feed: Callable[[bytes, str], Any]
    refuses: tuple[type[Exception], ...] = (KeyturnError,)
    kept: dict[str, bytes] = field(default_factory=dict)


PARSERS = {
    "inventories": Parser(in_a_file(inventory)),
    "scans": Parser(in_a_file(lambda file: list(read_scans(file)))),
    "answers": Parser(answers),
    "streams": Parser(streams),
    "batches": Parser(batches),
    "payloads": Parser(payload, (KeyturnError, DecodeError)),  # what is no message never reaches the codec
    "settings": Parser(setting, (KeyturnError, ValueError)),  # reported by pydantic, with the setting's name
    "policies": Parser(in_a_file(lambda file: load_catalogue(file.parent))),
    "keys": Parser(as_text(lambda text: parse_keyring(text, source="x")), kept={"keys.txt": KEYS_TEXT.encode()}),
}


def samples() -> Iterator[Any]:
    for name, parser in PARSERS.items():
        kept = {file.name: file.read_bytes() for file in sorted((CORPORA / name).glob("*"))} | parser.kept
        for sample, data in kept.items():
            yield pytest.param(name, sample, data, list(kept.values()), id=f"{name}/{sample}")


@pytest.mark.parametrize(("name", "sample", "data", "others"), list(samples()))
def test_whatever_becomes_of_a_sample_it_is_read_or_refused_by_name(
    name: str, sample: str, data: bytes, others: list[bytes]
) -> None:
    """Nothing else is raised, and nothing takes longer than its size explains."""
    parser = PARSERS[name]

    def fed(mutant: bytes) -> None:
        with suppress(*parser.refuses):
            parser.feed(mutant, sample)

    fed(data)

    @settings(max_examples=EXAMPLES, deadline=5_000, database=None, suppress_health_check=list(HealthCheck))
    @given(damaged(data, others))
    def whatever(mutant: bytes) -> None:
        fed(mutant)

    whatever()


async def test_the_codec_server_answers_whatever_it_is_sent() -> None:
    """With clear text or a named refusal, and never with another error."""
    from keyturn.web.serving import served
    from keyturn.workers.codec import CodecServer

    operator = "luna_token_of_the_tests_0123456789abcdef"
    sample = (CORPORA / "codec" / "decode.json").read_bytes()
    server = CodecServer(KEYRING, {"luna": SecretStr(operator)}, frozenset())
    headers = {"Authorization": f"Bearer {operator}", "X-Namespace": "default", "content-type": "application/json"}
    loop = asyncio.get_running_loop()
    async with (
        served(server.application(), "127.0.0.1:0", setting="KEYTURN_CODEC_ADDRESS") as url,
        loopback_client(url, headers=headers) as http,
    ):

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(damaged(sample, [sample]))
        def whatever(mutant: bytes) -> None:
            answer = asyncio.run_coroutine_threadsafe(http.post("/decode", content=mutant), loop).result(10)
            assert answer.status_code in {200, 400, 413, 422}, answer.text
            assert isinstance(json.loads(answer.content), dict)

        assert (await http.post("/decode", content=sample)).status_code in {200, 400, 422}
        await asyncio.to_thread(whatever)
