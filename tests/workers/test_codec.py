"""The codec server over HTTP: clear text for an operator, a named refusal for every other caller."""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog
from google.protobuf.json_format import MessageToDict
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.client import Client

from keyturn.application.encryption import EncryptionCodec
from keyturn.application.rotations import start_or_attach
from keyturn.errors import SettingsInvalid
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.processes import program
from keyturn.tokens import parse_tokens
from keyturn.web.serving import served
from keyturn.workers.codec import COOKIE, MAX_BODY_BYTES, CodecServer
from keyturn.workers.codec_settings import load_codec_settings, parse_origins
from tests.support.cases import request
from tests.support.keys import NEWER, OLDER, ring
from tests.support.workers_for_tests import ELIGIBLE, Script, worker_on

UI = "http://127.0.0.1:8233"
LUNA, OMAR = "luna_token_of_the_tests_0123456789abcdef", "omar_token_of_the_tests_0123456789abcdef"
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'{"question": "Luna\'s private words"}')
AS_LUNA = {"Authorization": f"Bearer {LUNA}", "X-Namespace": "default"}


@pytest.fixture
async def codec() -> AsyncIterator[httpx.AsyncClient]:
    tokens = {"luna": SecretStr(LUNA), "omar": SecretStr(OMAR)}
    server = CodecServer(ring(NEWER), tokens, frozenset({UI}))
    async with (
        served(server.application(), "127.0.0.1:0", setting="KEYTURN_CODEC_ADDRESS") as url,
        loopback_client(url) as http,
    ):
        yield http


async def body(*payloads: Payload, key: str = NEWER, namespace: str = "default") -> dict[str, Any]:
    encrypted = await EncryptionCodec(ring(key), namespace).encode(payloads or (PLAIN,))
    printed: dict[str, Any] = MessageToDict(Payloads(payloads=encrypted))
    return printed


async def test_an_operator_gets_clear_text_and_it_is_logged_who_did(codec: httpx.AsyncClient) -> None:
    """Who, which namespace, which ciphertexts; and not what was in them."""
    asked = await body(PLAIN, PLAIN)
    with structlog.testing.capture_logs() as logged:
        answer = await codec.post("/decode", json=asked, headers=AS_LUNA)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert [base64.b64decode(one["data"]) for one in answer.json()["payloads"]] == [PLAIN.data] * 2
    [event] = [one for one in logged if one["event"] == "payloads_decoded"]
    assert (event["operator"], event["by"], event["namespace"], event["payloads"]) == ("luna", "bearer", "default", 2)
    assert (event["key_ids"], len(set(event["what"]))) == (["newer"], 2)
    assert "private words" not in str(logged)
    assert LUNA not in str(logged)


async def test_what_nobody_encrypted_goes_back_as_it_came(codec: httpx.AsyncClient) -> None:
    """The UI sends whatever stands in an event."""
    plain = MessageToDict(Payloads(payloads=[PLAIN]))
    answer = await codec.post("/decode", json=plain, headers=AS_LUNA)
    assert answer.json() == plain


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"X-Namespace": "default"}, 401, "not_signed_in"),
        ({"Authorization": "Bearer x", "X-Namespace": "default"}, 401, "not_signed_in"),
        ({"Authorization": f"Bearer {LUNA[:-1]}", "X-Namespace": "default"}, 401, "not_signed_in"),
        ({"Authorization": f"Basic {LUNA}", "X-Namespace": "default"}, 401, "not_signed_in"),
        ({"Authorization": f"Bearer {LUNA}"}, 400, "no_namespace"),
        ({"Authorization": f"Bearer {LUNA}", "X-Namespace": "n" * 1_001}, 400, "no_namespace"),
        ({**AS_LUNA, "X-Namespace": "another"}, 422, "payload_not_authentic"),
        ({**AS_LUNA, "Origin": "https://evil.example"}, 403, "origin_not_allowed"),
        ({**AS_LUNA, "Origin": "null"}, 403, "origin_not_allowed"),
        (
            {"Cookie": f"{COOKIE}=luna.9999999999.{'0' * 64}", "Origin": UI, "X-Namespace": "default"},
            401,
            "not_signed_in",
        ),
    ],
)
async def test_strangers_are_refused_by_name(
    codec: httpx.AsyncClient, headers: dict[str, str], status: int, kind: str
) -> None:
    """Without a token, with a wrong one, from a foreign page, for another namespace, with a forged cookie."""
    answer = await codec.post("/decode", json=await body(), headers=headers)
    assert (answer.status_code, answer.json()["kind"]) == (status, kind)
    assert "private words" not in answer.text
    if headers.get("Origin") != UI:
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"not json", 400),
        (b"[]", 400),
        (b'{"\\ud800payloads": []}', 400),
        (b'{"payloads": [{"\\ud800": {}}]}', 400),
        (b'{"payloads": 7}', 400),
        (b'{"payloads": [{"data": {"a": 1}}]}', 400),
        (b'{"payloads": [' + b"[" * 100_000, 400),
        (b"\xff\xfe", 400),
        (json.dumps({"payloads": [{}] * 2_001}).encode(), 413),
        (b"x" * (MAX_BODY_BYTES + 1), 413),
        (json.dumps({"payloads": [{"data": "A" * 10_000_000}]}).encode(), 413),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_hostile_bodies_are_refused(codec: httpx.AsyncClient, content: bytes, status: int) -> None:
    """By a status and a name; the server continues."""
    answer = await codec.post("/decode", content=content, headers=AS_LUNA | {"Content-Type": "application/json"})
    assert answer.status_code == status
    assert set(answer.json()) == {"type", "title", "status", "detail", "kind", "hint"}
    assert (await codec.get("/healthz")).status_code == 200


async def test_tampered_and_retired_payloads_are_refused_by_name(codec: httpx.AsyncClient) -> None:
    """The retired key by its id, so that it can be put back."""
    retired = await codec.post("/decode", json=await body(key=OLDER), headers=AS_LUNA)
    assert (retired.status_code, retired.json()["kind"]) == (422, "payload_key_unknown")
    assert "the key older" in retired.json()["detail"]
    asked = await body()
    data = bytearray(base64.b64decode(asked["payloads"][0]["data"]))
    data[20] ^= 1
    asked["payloads"][0]["data"] = base64.b64encode(bytes(data)).decode()
    tampered = await codec.post("/decode", json=asked, headers=AS_LUNA)
    assert (tampered.status_code, tampered.json()["kind"]) == (422, "payload_not_authentic")


async def test_it_never_encrypts(codec: httpx.AsyncClient) -> None:
    """Decode only: encrypting would let a caller start and approve. Temporal's command line may send an empty list."""
    plain = MessageToDict(Payloads(payloads=[PLAIN]))
    refused = await codec.post("/encode", json=plain, headers=AS_LUNA)
    assert (refused.status_code, refused.json()["kind"]) == (403, "nothing_is_encrypted_here")
    assert "private words" not in refused.text
    assert (await codec.post("/encode", json={"payloads": []}, headers=AS_LUNA)).json() == {"payloads": []}
    assert (await codec.post("/encode", json=plain)).status_code == 401
    for method, path in (("GET", "/encode"), ("GET", "/decode"), ("PUT", "/decode"), ("GET", "/nothing")):
        answer = await codec.request(method, path, headers=AS_LUNA)
        assert answer.status_code in {404, 405}


async def test_a_browser_is_told_what_it_may_send(codec: httpx.AsyncClient) -> None:
    """The preflight of an allowed origin, and no word to any other."""
    asked = {"Origin": UI, "Access-Control-Request-Method": "POST"}
    allowed = await codec.options("/decode", headers=asked)
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (204, UI)
    assert allowed.headers["Access-Control-Allow-Credentials"] == "true"
    assert "X-Namespace" in allowed.headers["Access-Control-Allow-Headers"]
    other = await codec.options("/decode", headers=asked | {"Origin": "https://evil.example"})
    assert other.status_code == 403
    assert "Access-Control-Allow-Origin" not in other.headers


async def test_a_session_decodes_for_its_browser_and_only_from_the_ui(codec: httpx.AsyncClient) -> None:
    """Signed in by the page; the cookie is no script's, of this site, and worth nothing elsewhere."""
    wrong = await codec.post("/session", data={"token": "wrong"})
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
    pages = [wrong.text, (await codec.get("/")).text]
    assert ["No operator has this token." in page for page in pages] == [True, False]
    signed_in = await codec.post("/session", data={"token": OMAR})
    assert signed_in.status_code == 200
    cookie = signed_in.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert OMAR not in cookie
    asked, headers = await body(), {"X-Namespace": "default", "Origin": UI}
    assert (await codec.post("/decode", json=asked, headers=headers)).status_code == 200
    # httpx sends the cookie by itself here: without a page's origin it does not count.
    assert (await codec.post("/decode", json=asked, headers={"X-Namespace": "default"})).status_code == 401
    cookie_value = codec.cookies[COOKIE]
    middle = len(cookie_value) // 2
    forged = cookie_value[:middle] + ("A" if cookie_value[middle] != "A" else "B") + cookie_value[middle + 1 :]
    codec.cookies.clear()
    answer = await codec.post("/decode", json=asked, headers=headers | {"Cookie": f"{COOKIE}={forged}"})
    assert answer.status_code == 401
    cross_site = await codec.post("/session", data={"token": OMAR}, headers={"Sec-Fetch-Site": "cross-site"})
    assert cross_site.status_code == 403


@pytest.mark.parametrize(
    ("tokens", "fault"),
    [
        ("", "names no user"),
        ("luna", "is not NAME:TOKEN"),
        ("luna:short", "the token of luna has fewer than 32 letters"),
        (f"luna:{LUNA},luna:{OMAR}", "luna is listed twice"),
        (f"lu na:{LUNA}", "is not NAME:TOKEN"),
    ],
)
def test_tokens_that_cannot_be_used_are_reported_without_them(tokens: str, fault: str) -> None:
    """At start."""
    with pytest.raises(ValueError, match=fault) as caught:
        parse_tokens(tokens)
    assert LUNA not in str(caught.value)


def test_the_servers_settings_are_checked_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """All faults at once, by the names of their variables."""
    monkeypatch.setenv("KEYTURN_CODEC_ADDRESS", "8402")
    monkeypatch.setenv("KEYTURN_CODEC_ORIGINS", "https://temporal.example.com/path")
    with pytest.raises(SettingsInvalid) as caught:
        load_codec_settings()
    for printed in (
        "KEYTURN_CODEC_ADDRESS: is not HOST:PORT",
        "KEYTURN_CODEC_ORIGINS: holds",
        "KEYTURN_CODEC_TOKENS is not",
    ):
        assert printed in str(caught.value)
    assert parse_origins(f"{UI}/, https://t.example.com") == {UI, "https://t.example.com"}


async def test_it_is_asked_by_its_own_names_alone(codec: httpx.AsyncClient) -> None:
    """A page whose name was pointed here asks by that name; a probe asks by an address."""
    asked = await body()
    for host in ("evil.example", "evil.example:8402", "", "127.0.0.1.evil.example"):
        refused = await codec.post("/decode", json=asked, headers=AS_LUNA | {"Host": host})
        assert (refused.status_code, refused.json()["kind"]) == (421, "unknown_host")
        assert (await codec.get("/healthz", headers={"Host": host})).status_code == 200
    for host in ("localhost:8402", "[::1]:8402", "LOCALHOST"):
        assert (await codec.post("/decode", json=asked, headers=AS_LUNA | {"Host": host})).status_code == 200


@pytest.mark.parametrize("command", ["show", "describe", "query --type status", "metadata"])
async def test_temporals_command_line_shows_what_it_may_and_says_why_not(
    codec: httpx.AsyncClient, temporal: Client, command: str, sqlite_store: JobStore
) -> None:
    """With the right token clear text; with a wrong one the reason, and not after ten seconds its deadline."""
    queue = f"test-{uuid.uuid4().hex}"
    asked = request(account_id=f"acct_{uuid.uuid4().hex[:12]}")
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store):
        rotation = await start_or_attach(temporal, asked, task_queue=queue)
        await rotation.handle.result()
        for token, words in ((LUNA, None), (f"{LUNA}x", "no operator has this token")):
            process = await asyncio.create_subprocess_exec(
                program("temporal"),
                "workflow",
                *command.split(),
                *("-w", rotation.handle.id, "--address", temporal.service_client.config.target_host),
                *("--codec-endpoint", str(codec.base_url), "--codec-auth", f"Bearer {token}"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            async with asyncio.timeout(9):  # its own deadline is ten seconds
                printed = (await process.communicate())[0].decode()
            if words is None:
                assert process.returncode == 0, printed
                assert "binary/encrypted" not in printed
            else:
                assert words in printed
                assert asked.question not in printed
