"""One message to one receiver: enveloped, signed, sent once, its answer classified; and who may be asked at all."""

import asyncio
import base64
import json
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook as StandardWebhook
from standardwebhooks import WebhookVerificationError

from keyturn.jobs.contracts import JobMessage
from keyturn.jobs.errors import ReceiverConflict, ReceiverRefused, ReceiverUnavailable
from keyturn.jobs.outbox import Message
from keyturn.jobs.rows import job_row, message_payload
from keyturn.lab.stack.loopback import loopback_client
from keyturn.llm.http import http_client
from keyturn.notifications.webhook import Webhook
from keyturn.notifications.webhook.destinations import fault_of_target
from keyturn.notifications.webhook.signing import envelope, signature, verify
from tests.support.cases import order
from tests.support.record_schemas import FILE, schema

OLD, NEW = SecretStr("old_secret_of_the_tests_0123456789abcdef"), SecretStr("new_secret_of_the_tests_0123456789abcdef")
NOW = 1_790_000_000.0
Answer = Callable[[httpx.Request], httpx.Response]


def message() -> Message:
    payload = message_payload(job_row(order(), "rotate:default:~a:~b:P-7@1", "v1:" + "0" * 64, 1))
    created = datetime(2026, 11, 21, 9, tzinfo=UTC)
    return Message(1, payload["job_id"], "default", "rotation_job.created", payload, created, None, None)


async def sent(
    answer: Answer, *, url: str = "http://127.0.0.1:9/jobs", keys: Mapping[str, SecretStr] | None = None
) -> str:
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        return await Webhook(http, url, keys or {"new": NEW, "old": OLD}).send(message())


async def test_a_receiver_gets_a_signed_cloudevent_with_the_jobs_key() -> None:
    """Verified by either of two keys; the body is the same whenever it is sent."""
    seen: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202)

    assert await sent(take) == "taken"
    [request] = seen
    sent_body = json.loads(request.content)
    assert (sent_body["specversion"], sent_body["type"]) == ("1.0", "dev.keyturn.rotation_job.created")
    assert sent_body["id"] == sent_body["subject"] == request.headers["Idempotency-Key"] == sent_body["data"]["job_id"]
    assert request.headers["Content-Type"] == "application/cloudevents+json"
    assert JobMessage.model_validate(sent_body["data"]).key_id
    assert request.headers["webhook-id"] == request.headers["Idempotency-Key"]
    moment = float(request.headers["webhook-timestamp"])
    for keys in ({"new": NEW}, {"old": OLD}, {"old": OLD, "unknown": NEW}):
        assert verify(request.headers, request.content, keys, now=moment)
    one = message()
    assert envelope(one) == envelope(one)


def test_the_published_schema_is_that_of_the_messages() -> None:
    """docs/schemas is written by `make schemas`."""
    assert json.loads(FILE.read_text()) == schema()


def test_forged_and_old_signatures_are_not_believed() -> None:
    """Another body, another key, another time, another secret, nothing at all."""
    body, keys = b'{"a": 1}', {"new": NEW}
    headers = signature("job_1", body, keys, now=NOW)
    assert verify(headers, body, keys, now=NOW + 299)
    assert not verify(headers, body + b" ", keys, now=NOW)
    assert not verify(headers | {"webhook-id": "job_2"}, body, keys, now=NOW)
    assert not verify(headers, body, {"new": OLD}, now=NOW)
    assert not verify(headers, body, keys, now=NOW + 301)
    assert not verify(headers, body, keys, now=NOW - 301)
    assert not verify(headers | {"webhook-timestamp": str(int(NOW) + 60)}, body, keys, now=NOW)
    assert not verify({}, body, keys, now=NOW)


@given(st.text(max_size=200), st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]))
def test_no_header_makes_verification_fail_otherwise_than_by_no(value: str, name: str) -> None:
    """Whatever the receiver sends."""
    headers = signature("job_1", b"{}", {"new": NEW}, now=NOW)
    assert verify(headers | {name: value}, b"{}", {"new": NEW}, now=NOW) == (headers[name] == value)


@pytest.mark.parametrize("status", range(200, 600))
async def test_every_status_has_its_meaning(status: int) -> None:
    """2xx is success; what may pass is repeated; a conflict and a refusal are for a person."""
    if 200 <= status < 300:
        assert await sent(lambda _: httpx.Response(status)) == "taken"
        return
    error: type[Exception] = ReceiverRefused
    if status in {409, 422}:
        error = ReceiverConflict
    elif status in {408, 423, 425, 429} or status >= 500:
        error = ReceiverUnavailable
    with pytest.raises(error):
        await sent(lambda _: httpx.Response(status))


@pytest.mark.parametrize(
    ("body", "known"),
    [
        (lambda key: {"job_id": key}, True),
        (lambda key: {"id": key}, True),
        (lambda key: {"job_id": "job_other"}, False),
        (lambda key: [key], False),
        (lambda key: {"id": [key]}, False),
        (lambda key: {"job_id": {"id": key}}, False),
        (lambda key: "x" * 100_000, False),
        (lambda key: None, False),
    ],
)
async def test_a_conflict_that_names_this_job_is_a_success(body: Callable[[str], Any], known: bool) -> None:
    """The receiver has it already: its answer was lost. Any other conflict is a person's."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(409, json=body(request.headers["Idempotency-Key"]))

    if known:
        assert await sent(answer) == "known"
    else:
        with pytest.raises(ReceiverConflict):
            await sent(answer)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(409, json={"title": "A request is outstanding for this Idempotency-Key"}),
        httpx.Response(409, text="The original request is still being processed"),
        httpx.Response(409, json={"error": {"code": "idempotency_key_in_use"}}),
        httpx.Response(409, headers={"Retry-After": "2"}),
        httpx.Response(423),
        httpx.Response(425),
    ],
)
async def test_a_request_that_is_still_under_way_is_sent_again_later(answer: httpx.Response) -> None:
    """The draft on idempotency keys has 409 for it: no person can fix what fixes itself."""
    with pytest.raises(ReceiverUnavailable):
        await sent(lambda _: answer)


@pytest.mark.parametrize(
    "words",
    ["The job is already there, do not retry", "unblocked", "a different request was pending approval", "misuse"],
)
async def test_a_conflict_that_says_nothing_of_another_time_is_a_persons(words: str) -> None:
    with pytest.raises(ReceiverConflict):
        await sent(lambda _: httpx.Response(409, text=words))


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example"])
async def test_a_name_that_no_host_can_have_is_refused(host: str) -> None:
    with pytest.raises(ReceiverRefused, match="is no host name"):
        await sent(lambda _: httpx.Response(200), url=f"https://{host}/jobs")


@pytest.mark.parametrize(
    "secret", [f"whsec_{base64.b64encode(bytes(range(32))).decode()}", "a_secret_of_thirty_two_letters_ab"]
)
async def test_every_receivers_own_library_verifies_a_message(secret: str) -> None:
    """By Standard Webhooks: the library reads the three headers, and refuses a changed body."""
    seen: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    await sent(take, keys={"new": SecretStr(secret)})
    theirs = secret if secret.startswith("whsec_") else f"whsec_{base64.b64encode(secret.encode()).decode()}"
    headers = dict(seen[0].headers)
    assert StandardWebhook(theirs).verify(seen[0].content, headers)
    with pytest.raises(WebhookVerificationError):
        StandardWebhook(theirs).verify(seen[0].content + b" ", headers)


@pytest.mark.parametrize("moment", ["\u00b2", "9" * 5_000, "1e3", "", "\ud800", "-1", f" {int(NOW)}", f"{int(NOW)}\n"])
def test_no_moment_that_is_none_is_believed_or_raises(moment: str) -> None:
    for key in ("job_1", "job_\ud800"):
        headers = {"webhook-id": key, "webhook-timestamp": moment, "webhook-signature": "v1,\ud800"}
        assert not verify(headers, b"{}", {"new": NEW}, now=NOW)


async def test_the_receivers_patience_is_heard_and_bounded() -> None:
    """Retry-After in seconds, a day at most; nonsense is ignored."""
    for value, wish in (
        ("7", 7),
        ("9" * 30, 86_400),
        ("9" * 5_000, 86_400),
        ("0" * 20 + "7", 7),
        ("-1", None),
        ("soon", None),
        ("٣", None),
    ):
        with pytest.raises(ReceiverUnavailable) as caught:
            await sent(lambda _, value=value: httpx.Response(503, headers=[(b"Retry-After", value.encode())]))  # type: ignore[misc]
        assert caught.value.retry_after == (None if wish is None else timedelta(seconds=wish))


async def test_no_redirect_is_followed() -> None:
    """It would carry a signed message to an address that was never configured."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(307, headers={"Location": "https://evil.example/"})

    with pytest.raises(ReceiverRefused):
        await sent(answer)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("scheme", "address", "allowed", "allowed_private"),
    [
        ("http", "127.0.0.1", True, True),
        ("http", "::1", True, True),
        ("https", "93.184.216.34", True, True),
        ("http", "93.184.216.34", False, False),
        ("https", "10.0.0.8", False, True),
        ("https", "192.168.1.1", False, True),
        ("https", "fd00::1", False, True),
        ("https", "169.254.169.254", False, False),
        ("https", "fe80::1", False, False),
        ("https", "fe80::1%eth0", False, False),
        ("https", "::ffff:10.0.0.8", False, True),
        ("https", "::ffff:169.254.169.254", False, False),
        ("https", "0.0.0.0", False, False),
        ("https", "0.1.2.3", False, False),
        ("https", "255.255.255.255", False, False),
        ("https", "224.0.0.1", False, False),
        ("https", "ff02::1", False, False),
        ("https", "::", False, False),
        ("https", "::10.0.0.8", False, False),
        ("https", "::169.254.169.254", False, False),
        ("https", "64:ff9b::a9fe:a9fe", False, False),
        ("https", "64:ff9b:1::a9fe:a9fe", False, False),
        ("https", "2002:a9fe:a9fe::1", False, False),
        ("https", "2001:0:4136:e378:8000:63bf:3fff:fdd2", False, False),
        ("https", "fec0::1", False, False),
        ("https", "fd00:ec2::254", False, False),
        ("https", "168.63.129.16", False, False),
        ("https", "192.88.99.1", False, False),
        ("https", "::ffff:0:169.254.169.254", False, False),
        ("https", "4000::1", False, False),
        ("https", "2606:4700::1111", True, True),
        ("https", "fd20:ce::254", False, False),
        ("https", "192.0.0.192", False, False),
        ("https", "100.100.100.200", False, False),
        ("https", "100.64.0.1", False, False),
    ],
)
def test_only_public_https_and_loopback_are_asked(
    scheme: str, address: str, allowed: bool, allowed_private: bool
) -> None:
    """Private ranges where the settings allow them; a cloud's metadata service never, in no disguise."""
    assert (fault_of_target(scheme, address, allow_private=False) is None) is allowed
    assert (fault_of_target(scheme, address, allow_private=True) is None) is allowed_private


async def test_a_name_that_points_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else it points to; and the request goes to the address that was looked at."""

    async def resolve(host: str, *_: Any, **__: Any) -> Any:
        found = {"inside.example": ["93.184.216.34", "10.0.0.8"], "outside.example": ["93.184.216.34"]}[host]
        return [(0, 0, 0, "", (address, 443)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(ReceiverRefused, match=r"10\.0\.0\.8 is not a public one"):
        await sent(lambda _: httpx.Response(200), url="https://inside.example/jobs")
    seen: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    await sent(take, url="https://outside.example/jobs")
    [request] = seen
    assert (request.url.host, request.headers["Host"]) == ("93.184.216.34", "outside.example")
    assert request.extensions["sni_hostname"] == "outside.example"


async def test_silence_is_a_passing_failure() -> None:
    """No server at the address, or a connection that drops."""
    async with loopback_client() as http:
        with pytest.raises(ReceiverUnavailable):
            await Webhook(http, "http://127.0.0.1:9/", {"new": NEW}).send(message())

    def drop(_request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("dropped")

    with pytest.raises(ReceiverUnavailable):
        await sent(drop)


async def test_over_tls_the_certificate_is_that_of_the_name_and_the_connection_goes_to_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver on https, by its name; with another name's certificate it is sent nothing."""
    certificate, key = _certificate(tmp_path, "receiver.test")
    sent_body: list[bytes] = []

    async def take(received: web.Request) -> web.Response:
        sent_body.append(await received.read())
        assert received.host == f"receiver.test:{port}"
        return web.Response()

    application = web.Application()
    application.router.add_post("/jobs", take)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server).start()
    port = runner.addresses[0][1]

    async def resolve(*_: Any, **__: Any) -> Any:
        return [(0, 0, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    trust = ssl.create_default_context(cafile=certificate)
    async with http_client(4, trust_env=False, verify=trust) as http:
        assert await Webhook(http, f"https://receiver.test:{port}/jobs", {"new": NEW}).send(message()) == "taken"
        with pytest.raises(ReceiverUnavailable):
            await Webhook(http, f"https://other.test:{port}/jobs", {"new": NEW}).send(message())
    assert len(sent_body) == 1
    await runner.cleanup()


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A new certificate for `name`, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"
