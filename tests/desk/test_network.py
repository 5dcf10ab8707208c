"""The desk on a network: who is let in, what another site's page cannot do, and how much is taken."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from html import unescape
from urllib.parse import quote

import httpx
import pytest
import structlog
from pydantic import ValidationError
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.database import open_database
from keyturn.desk.idempotency import Idempotency
from keyturn.desk.settings import DeskSettings, load_desk_settings
from keyturn.errors import InvalidRequest, JobStoreUnavailable, SettingsInvalid
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.temporal import dev_server
from tests.support.desks import TOKENS, Place, asking, events_of, key, place, question
from tests.support.keys import KEYRING
from tests.support.simulated import SimulatorControl


@pytest.fixture
async def here(temporal: Client, sqlite: URL, simulator: SimulatorControl) -> AsyncIterator[Place]:
    async with place(temporal, sqlite, simulator) as made:
        yield made


def plain(url: str, **headers: str) -> httpx.AsyncClient:
    return loopback_client(url, headers=headers)


async def test_nobody_gets_in_without_a_token_and_every_answer_is_guarded(here: Place) -> None:
    """Pages lead to the sign-in, JSON says 401; no script or style within a page, no frame around it."""
    async with here.served() as url, plain(url) as nobody:
        for path in ("/", "/jobs/x", "/rotations/x", "/drafts/x"):
            leaving = await nobody.get(path)
            back = "" if path == "/" else f"?next={quote(path, safe='')}"
            assert (leaving.status_code, leaving.headers["location"]) == (303, f"/sign-in{back}")
        for path in ("/api/v1/jobs", "/api/v1/rotations", "/api/v1/drafts/x/events"):
            assert (await nobody.get(path)).status_code == 401
        wrong = await nobody.get("/api/v1/jobs", headers={"authorization": "Bearer " + "x" * 40})
        assert wrong.status_code == 401
        for path in ("/sign-in", "/api/v1/jobs", "/static/desk.js", "/openapi.json", "/none"):
            headers = (await nobody.get(path)).headers
            assert "script-src 'self'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert (await nobody.get("/sign-in")).headers["cache-control"] == "no-store"
        assert (await nobody.get("/healthz", headers={"host": "10.1.2.3:8404"})).json() == {"status": "ok"}


async def test_signing_in_returns_to_where_one_was_and_nowhere_else(here: Place) -> None:
    """The page that asked for it, with its filters; never another site, however it is written."""
    async with here.served() as url, plain(url) as browser:
        asked = (await browser.get("/jobs?state=open&line=P-7")).headers["location"]
        form = unescape((await browser.get(asked)).text)
        assert 'name="next" value="/jobs?state=open&line=P-7"' in form
        for place, back in (
            ("/jobs?state=open&line=P-7", "/jobs?state=open&line=P-7"),
            ("", "/"),
            ("https://evil.example/", "/"),
            ("//evil.example/", "/"),
            ("/\\evil.example/", "/"),
            ("/jobs\r\nx: y", "/"),
            ("javascript:alert(1)", "/"),
            ("//[", "/"),
        ):
            signed_in = await browser.post("/session", data={"token": TOKENS["luna"], "next": place})
            assert (signed_in.status_code, signed_in.headers["location"]) == (303, back), place
            leading = await browser.get("/sign-in", params={"next": place})
            assert "evil" not in leading.text
            assert "javascript:" not in leading.text


async def test_a_browser_signs_in_with_a_token_and_out_again(here: Place) -> None:
    """The session is no token, no script can read it, and no other site's request carries it."""
    async with here.served() as url, plain(url) as browser:
        assert (await browser.post("/session", data={"token": "x" * 40})).status_code == 403
        signed_in = await browser.post("/session", data={"token": TOKENS["luna"]})
        cookie = signed_in.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert TOKENS["luna"] not in cookie
        page = await browser.get("/")
        assert page.status_code == 200
        assert "luna (asker)" in page.text
        assert (await browser.post("/sign-out")).status_code == 303
        assert (await browser.get("/")).status_code == 303
        browser.cookies.set("keyturn_desk", "dev:AAAA")
        assert (await browser.get("/")).status_code == 303
    async with here.served(KEYTURN_ENVIRONMENT="production") as url, plain(url) as browser:
        cookie = (await browser.post("/session", data={"token": TOKENS["luna"]})).headers["set-cookie"]
        assert "; Secure" in cookie, "a proxy before it speaks TLS"


async def test_a_proxys_header_is_believed_from_the_proxy_alone(here: Place) -> None:
    """Any other peer that sends it is not signed in."""
    by_proxy = {"KEYTURN_DESK_TOKENS": None, "KEYTURN_DESK_IDENTITY_HEADER": "X-Forwarded-User"}
    header = {"x-forwarded-user": "omar"}
    async with here.served(**by_proxy, KEYTURN_DESK_PROXIES="127.0.0.0/8") as url, plain(url, **header) as proxy:
        assert "omar (approver, operator)" in (await proxy.get("/")).text
        assert (await proxy.get("/", headers={"x-forwarded-user": "=cmd()"})).status_code == 401
    async with here.served(**by_proxy, KEYTURN_DESK_PROXIES="10.1.2.3") as url, plain(url, **header) as stranger:
        assert (await stranger.get("/api/v1/jobs")).status_code == 401


async def test_an_identity_header_that_came_twice_names_nobody(here: Place) -> None:
    """The client's own stands first: neither it nor the proxy's counts then."""
    settings = {"KEYTURN_DESK_TOKENS": None, "KEYTURN_DESK_IDENTITY_HEADER": "X-Forwarded-User"}
    async with here.served(**settings, KEYTURN_DESK_PROXIES="127.0.0.0/8") as url, plain(url) as client:
        twice = [("x-forwarded-user", "omar"), ("x-forwarded-user", "luna")]
        for headers in (twice, [("x-forwarded-user", "omar, luna")]):
            refused = await client.get("/api/v1/jobs", headers=headers)
            assert (refused.status_code, refused.json()["kind"]) == (400, "identity_ambiguous")


async def test_a_copied_session_is_worth_nothing_after_signing_out_or_another_token(here: Place) -> None:
    """Nor at another tenant's desk, which holds the same keys and the same tokens."""
    async with here.served() as url, plain(url) as browser, plain(url) as thief:
        await browser.post("/session", data={"token": TOKENS["luna"]})
        cookie = browser.cookies["keyturn_desk"]
        thief.cookies.set("keyturn_desk", cookie)
        assert (await thief.get("/")).status_code == 200
        async with here.served(KEYTURN_TENANT="another") as other, plain(other) as there:
            there.cookies.set("keyturn_desk", cookie)
            assert (await there.get("/")).status_code == 303
        replaced = ",".join(f"{name}:{token}{'2' * (name == 'luna')}" for name, token in TOKENS.items())
        async with here.served(KEYTURN_DESK_TOKENS=replaced) as later, plain(later) as there:
            there.cookies.set("keyturn_desk", cookie)
            assert (await there.get("/")).status_code == 303
        assert (await browser.post("/sign-out")).status_code == 303
        assert (await thief.get("/")).status_code == 303
        again = await browser.post("/session", data={"token": TOKENS["luna"]})
        assert again.status_code == 303
        assert (await browser.get("/")).status_code == 200, "a new session is another one"


async def test_names_that_differ_in_case_or_marks_are_one_person(here: Place) -> None:
    """Roles are found however the proxy writes a name, and no name stands in the settings twice."""
    settings = {"KEYTURN_DESK_TOKENS": None, "KEYTURN_DESK_IDENTITY_HEADER": "X-Forwarded-User"}
    async with here.served(**settings, KEYTURN_DESK_PROXIES="127.0.0.0/8") as url, plain(url) as client:
        for name in ("omar", "OMAR", "Omar."):
            page = await client.get("/", headers={"x-forwarded-user": name})
            assert f"{name} (approver, operator)" in page.text
    for roles in ("luna=asker; Luna=approver", "luna=asker; luna.=approver"):
        with pytest.raises(ValidationError, match="is listed twice"):
            DeskSettings(KEYTURN_DESK_ROLES=roles)
    with pytest.raises(ValidationError, match="is listed twice"):
        DeskSettings(KEYTURN_DESK_TOKENS=f"luna:{'a' * 32}, LUNA:{'b' * 32}")


async def test_a_probe_is_never_rate_limited_and_tries_to_sign_in_use_up_nobodys_requests(here: Place) -> None:
    """A balancer that asks each second would otherwise take away a desk that works."""
    async with here.served(KEYTURN_DESK_REQUESTS_PER_MINUTE=10) as url, plain(url) as peer:
        for _ in range(30):
            assert (await peer.get("/healthz")).status_code == 200
        tried = [(await peer.post("/session", data={"token": "x" * 40})).status_code for _ in range(15)]
        assert (tried.count(403), tried.count(429)) == (10, 5)
        assert (await peer.get("/sign-in")).status_code == 200


async def test_an_address_that_is_no_text_or_no_path_is_refused_as_such(here: Place) -> None:
    """NUL, bytes that are no UTF-8, absolute URIs: 400 for any caller."""
    async with here.served() as url:
        host, _, port = url.partition("//")[2].rpartition(":")
        for target in (
            "/jobs/%00",
            "/jobs?after=%00",
            "/jobs/%ff%fe",
            "/api/v1/jobs/%00",
            f"{url}/jobs",
            "http://evil.example/",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 400"), target
            writer.close()


async def test_a_body_that_never_comes_is_not_waited_for(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyturn.web.guard.BODY_SECONDS", 0.2)
    async with here.served() as url:
        host, _, port = url.partition("//")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /session HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 100\r\n\r\ntoken="
        writer.write(head.encode())
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_another_sites_page_changes_nothing(here: Place) -> None:
    """Known by Sec-Fetch-Site, or by Origin where a browser does not send that."""
    async with here.served() as url, asking("luna", url) as luna:
        for headers in (
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site", "origin": url},
        ):
            refused = await luna.post("/api/v1/rotations", json=question(), headers=key() | headers)
            assert (refused.status_code, refused.json()["kind"]) == (403, "another_site"), headers
            assert (await luna.post("/ask", data={"account_id": "a"}, headers=headers)).status_code == 403
        own = await luna.post(
            "/api/v1/rotations", json=question(policy_lines=["P-99"]), headers=key() | {"origin": url}
        )
        assert own.status_code == 422
        assert (await luna.get("/api/v1/jobs", headers={"host": "evil.example"})).status_code == 421


async def test_what_is_too_large_or_too_often_is_refused(here: Place) -> None:
    """Whether its length is announced or not; and one person's haste is not another's."""
    async with (
        here.served(KEYTURN_DESK_REQUESTS_PER_MINUTE=10) as url,
        asking("luna", url) as luna,
        asking("omar", url) as omar,
    ):
        body = b"{" + b" " * 70_000 + b"}"

        async def pieces() -> AsyncIterator[bytes]:
            yield body

        for content in (body, pieces()):
            refused = await luna.post("/api/v1/rotations", content=content, headers=key())
            assert (refused.status_code, refused.json()["kind"]) == (413, "too_large")
        answers = [await luna.get("/api/v1/jobs") for _ in range(12)]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert answers[-1].headers["retry-after"]
        assert (await omar.get("/api/v1/jobs")).status_code == 200


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"KEYTURN_ENVIRONMENT": "production"}, "no user would have to sign in"),
        ({"KEYTURN_DESK_ADDRESS": "0.0.0.0:8403"}, "no user would have to sign in"),
        ({"KEYTURN_DESK_IDENTITY_HEADER": "X-Forwarded-User"}, "KEYTURN_DESK_PROXIES is not set"),
        ({"KEYTURN_DESK_TOKENS": "luna:short"}, "fewer than 32 letters"),
        ({"KEYTURN_DESK_ROLES": "luna=king"}, "NAME=ROLE"),
        ({"KEYTURN_DESK_PROXIES": "everywhere"}, "no address or network"),
    ],
)
def test_a_desk_that_would_let_anybody_in_does_not_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    """Said by name, without a value of any secret."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid, match=message) as caught:
        load_desk_settings()
    assert "short" not in str(caught.value)


def test_in_development_on_loopback_nobody_signs_in() -> None:
    assert DeskSettings().open_to_all
    with pytest.raises(ValidationError):
        DeskSettings(KEYTURN_DESK_ADDRESS=f"{socket.gethostname()}:80")


async def test_in_development_one_acts_as_anybody(here: Place) -> None:
    """So that an approval can be tried alone; where users sign in, there is no such thing."""
    async with here.served(KEYTURN_DESK_TOKENS=None) as url, plain(url) as browser:
        assert "there is no sign-in" in (await browser.get("/")).text
        for name in ("omar", "audit:nightly"):
            assert (await browser.post("/act-as", data={"name": name})).status_code == 303
            assert f'value="{name}"' in (await browser.get("/")).text
    async with here.served() as url, asking("luna", url) as luna:
        assert (await luna.post("/act-as", data={"name": "omar"})).status_code == 403


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/"])
async def test_what_nobody_foresaw_is_reported_without_a_word_of_it(
    here: Place, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The answer says that it failed; where it failed stands in the log, without a name out of its path or message."""

    async def fails(*_: object, **__: object) -> None:
        raise RuntimeError("the account acct_1 of luna")

    monkeypatch.setattr(here.desk.lists, "jobs", fails)
    monkeypatch.setattr(here.desk.lists, "overview", fails)
    with structlog.testing.capture_logs() as logged:
        async with here.served() as url, asking("luna", url) as luna:
            answered = await luna.get(path, params={"account_id": "acct_1"})
    assert (answered.status_code, "the server failed" in answered.text, "acct_1" in answered.text) == (500, True, False)
    (failure,) = (entry for entry in logged if entry["event"] == "request_failed")
    assert (failure["route"], failure["error"]) == (path, "RuntimeError")
    assert failure["where"].startswith("test_network.py:")
    assert "acct_1" not in str(logged)


async def test_while_temporal_is_away_it_says_so_within_seconds(
    sqlite: URL, simulator: SimulatorControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages and JSON, whatever was asked; and what needs the database alone is answered as ever."""
    async with AsyncExitStack() as server:
        client = await server.enter_async_context(dev_server())
        async with (
            place(client, sqlite, simulator) as here,
            here.served(KEYTURN_DESK_WAIT_SECONDS=2) as url,
            asking("luna", url) as luna,
        ):
            asked = {"account_id": "team/a", "key_id": "key_01"}
            begun = await luna.post("/api/v1/rotations", json=question(**asked), headers=key())
            location = begun.headers["location"]
            assert "%252F" in location, "names are plain here, and one holds a slash"
            while (seen := await luna.get(location)).status_code == 503:  # a new server on a busy machine
                await asyncio.sleep(0.1)
            assert seen.json()["status"] == "running"
            await server.aclose()
            monkeypatch.setattr(
                "keyturn.desk.app.UPDATE_TIMEOUT", timedelta(seconds=1)
            )  # a busy server needed more so far
            again = key()
            answers = await asyncio.gather(
                luna.get(location),
                luna.get("/"),
                luna.get(location.removeprefix("/api/v1")),
                luna.post("/api/v1/rotations", json=question(), headers=again),
            )
            assert [answer.status_code for answer in answers] == [503] * 4
            assert all(answer.headers["retry-after"] and answer.elapsed.total_seconds() < 12 for answer in answers)
            assert (await luna.get("/api/v1/jobs")).status_code == 200
            repeated = await luna.post("/api/v1/rotations", json=question(), headers=again)
            assert repeated.status_code == 503, "its key stands for nothing yet"


async def test_while_the_database_is_slow_it_says_so(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs as well as jobs; and what was typed into the form stays there."""
    monkeypatch.setattr("keyturn.database.TRANSACTION_SECONDS", 0.1)
    async with here.served() as url, asking("luna", url) as luna, here.engine.connect():  # SQLite's one connection
        for path in ("/api/v1/costs", "/api/v1/jobs"):
            refused = await luna.get(path)
            assert (refused.status_code, refused.json()["kind"]) == (503, "job_store_unavailable")


async def test_a_request_that_is_too_late_is_answered_and_may_be_sent_again(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if its work, when stopped, ends with an answer of its own."""
    monkeypatch.setattr("keyturn.desk.app.UPDATE_TIMEOUT", timedelta(seconds=-2.5))
    stopped = 0

    async def slow(*_: object, **__: object) -> None:
        nonlocal stopped
        try:
            await asyncio.sleep(60)
        finally:
            stopped += 1
            raise JobStoreUnavailable("the database did not answer")

    monkeypatch.setattr(here.desk, "ask", slow)
    async with here.served(KEYTURN_DESK_WAIT_SECONDS="0.1") as url, asking("luna", url) as luna:
        again, asked = key(), question()
        for _ in range(2):
            late = await luna.post("/api/v1/rotations", json=asked, headers=again)
            assert (late.status_code, late.json()["kind"]) == (503, "job_store_unavailable")
    assert stopped == 2


async def test_an_answer_that_cannot_be_remembered_is_given_all_the_same(
    sqlite: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a failure is reported as what it is, and not as that of the clean-up behind it."""
    engine = open_database(sqlite)
    once = Idempotency(engine, KEYRING)

    async def away(_statement: object) -> None:
        raise JobStoreUnavailable("away")

    async def done(_digest: str) -> tuple[int, dict[str, str]]:
        return 202, {"workflow_id": "w"}

    async def refused(_digest: str) -> tuple[int, dict[str, str]]:
        raise InvalidRequest("no")

    monkeypatch.setattr(once, "change", away)
    assert await once.once("a", whose=("t",), request={}, do=done) == (202, {"workflow_id": "w"})
    with pytest.raises(InvalidRequest):
        await once.once("b", whose=("t",), request={}, do=refused)
    await engine.dispose()


async def test_a_draft_is_stopped_while_the_database_is_away(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs money until it is: Temporal knows whose it is, too."""
    async with here.served() as url, asking("luna", url) as luna:
        body = {"account_id": "acct_1", "question": "May it?", "policy_lines": ["P-7"]}
        path = (await luna.post("/api/v1/drafts", json=body, headers=key())).headers["location"]
        monkeypatch.setattr("keyturn.database.TRANSACTION_SECONDS", 0.1)
        async with here.engine.connect():
            assert (await luna.post(f"{path}/stop")).status_code == 204
        monkeypatch.undo()
        async with here.working():
            assert [name for _, name, _ in await events_of(luna, f"{path}/events")] == ["end"]
        assert (await luna.get(path)).json()["state"] == "cancelled"


@pytest.mark.parametrize(
    "evidence",
    [
        {"last_rotated_at": 2026},
        {"last_rotated_at": "2026"},
        {"last_used_at": 1_767_225_600},
        {"observed_at": 2026},
        {"age_days": True},
        {"age_days": -1},
    ],
)
async def test_a_year_is_no_moment_and_truth_is_no_day(here: Place, evidence: dict[str, object]) -> None:
    """`{"last_rotated_at": 2026}` became 1970, and a job."""
    async with here.served() as url, asking("luna", url) as http:
        asked = {name: value for name, value in question().items() if name != "age_days"} | evidence
        refused = await http.post("/api/v1/rotations", json=asked, headers=key())
        assert refused.status_code == 422, refused.text
