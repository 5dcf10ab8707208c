"""Channels against receivers that check what their vendors document, and a real mail server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from aiosmtpd.controller import Controller
from pydantic import SecretStr, ValidationError

from keyturn.jobs.errors import ReceiverRefused, ReceiverUnavailable
from keyturn.llm.http import http_client
from keyturn.notices.channel import Notifier
from keyturn.notices.contracts import TOPICS, Notice
from keyturn.notices.samples import message_of, sample, samples
from keyturn.notifications.pagerduty import PagerDuty, PagerDutySettings, dedup_key
from keyturn.notifications.slack import Slack, SlackSettings
from keyturn.notifications.smtp import Mail, SmtpSettings
from keyturn.notifications.teams import Teams, TeamsSettings
from tests.support.record_schemas import NOTICE_FILE, notice_schema
from tests.support.servers import fake_server

DESK = "https://desk.example.org"
HOSTILE = "<!channel> <https://evil.example|Open> *x* [y](https://evil.example) &"


class Receiver:
    """A service: what it was sent, and what it answers, in turn; the last one for ever."""

    def __init__(self, check: Callable[[str, Any], str | None] = lambda path, body: None) -> None:
        self.got: list[tuple[str, Any]] = []
        self.answers: list[web.Response | None] = []
        self._check = check

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fault = self._check(request.path, body)
        if fault is not None:
            return web.Response(status=400, text=fault)
        self.got.append((request.path, body))
        if self.answers:
            answer = self.answers.pop(0)
            if answer is None:  # taken, and the answer lost
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return answer
        return web.Response(status=200, text="ok")


@asynccontextmanager
async def serving(receiver: Receiver) -> AsyncIterator[str]:
    application = web.Application(client_max_size=1 << 20)
    application.router.add_post("/{path:.*}", receiver.answer)
    async with fake_server(application) as url:
        yield url


@asynccontextmanager
async def channel(kind: Any, receiver: Receiver, *more: str) -> AsyncIterator[Notifier]:
    async with serving(receiver) as url, http_client(4) as http:
        yield kind(http, {"payments": f"{url}/hook"}, *more)


def slack_fault(_path: str, body: Any) -> str | None:
    """https://docs.slack.dev/reference/block-kit/blocks: what makes an answer invalid_blocks or msg_blocks_too_long."""
    blocks = body.get("blocks", [])
    if not body.get("text") or not 1 <= len(blocks) <= 50:
        return "invalid_payload"
    for block in blocks:
        if block["type"] == "rich_text":
            [section] = block["elements"]
            known = all(part["type"] in {"text", "emoji", "link"} for part in section["elements"])
            if section["type"] != "rich_text_section" or not known:
                return "invalid_blocks"
            continue
        text = block.get("text") or block["elements"][0]
        if not 1 <= len(text["text"]) <= {"header": 150, "context": 3_000}[block["type"]]:
            return "invalid_blocks"
    return "msg_blocks_too_long" if sum(len(json.dumps(block)) for block in blocks) > 11_000 else None


def teams_fault(_path: str, body: Any) -> str | None:
    """The envelope of a Workflows webhook, with an Adaptive Card of at most 28 KB."""
    [attachment] = body["attachments"]
    card = attachment["content"]
    is_card = body["type"] == "message" and attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    known = all(line["type"] == "TextBlock" and line["text"] for line in card["body"])
    return None if is_card and known and card["version"] and len(json.dumps(body)) < 28_000 else "bad card"


def pagerduty_fault(path: str, body: Any) -> str | None:
    """https://developer.pagerduty.com/docs/send-alert-event, and send-change-events."""
    if not body.get("routing_key"):
        return "routing_key"
    if path == "/v2/change/enqueue":
        return None if set(body) <= {"routing_key", "payload", "links"} and body["payload"]["summary"] else "change"
    if path != "/v2/enqueue" or body["event_action"] not in {"trigger", "resolve"} or len(body["dedup_key"]) > 255:
        return "event"
    if body["event_action"] == "resolve":
        return None
    payload = body["payload"]
    of_severity = payload["severity"] in {"critical", "error", "warning", "info"}
    return None if of_severity and 1 <= len(payload["summary"]) <= 1_024 and payload["source"] else "payload"


CHATS = [(Slack, slack_fault), (Teams, teams_fault)]


@pytest.mark.parametrize(("kind", "fault"), CHATS)
@pytest.mark.parametrize("count", [1, 20, 800])
async def test_a_chat_takes_a_digest_of_any_size(kind: Any, fault: Any, count: int) -> None:
    """With facts as long as they may be."""
    long = {f"fact_{number}": "x" * 500 for number in range(8)}
    many = [sample("job.created", number=n).model_copy(update={"facts": long}) for n in range(count)]
    async with channel(kind, receiver := Receiver(fault)) as chat:
        assert await chat.send("payments", message_of(many, "x:payments"), desk=DESK) == "taken"
    assert "keys must be rotated" in json.dumps(receiver.got) or count == 1


@pytest.mark.parametrize(("kind", "fault"), CHATS)
async def test_every_topic_is_taken_and_names_its_key_and_page(kind: Any, fault: Any) -> None:
    async with channel(kind, receiver := Receiver(fault)) as chat:
        for notice in samples():
            await chat.send("payments", message_of([notice], "x:payments"), desk=DESK)
    assert len(receiver.got) == len(TOPICS)
    written = json.dumps(receiver.got).replace("\\\\", "")
    assert "key_sample_5 of acct_sample" in written
    assert f"{DESK}/jobs/job_sample_5" in written


@pytest.mark.parametrize(("kind", "fault"), CHATS)
async def test_a_name_mentions_no_one_and_links_nowhere(kind: Any, fault: Any) -> None:
    """Names and reasons are other people's text."""
    notice = sample("job.created").model_copy(update={"facts": {"reason": HOSTILE}})
    async with channel(kind, receiver := Receiver(fault)) as chat:
        await chat.send("payments", message_of([notice], "x:payments"), desk=None)
    [(_, body)] = receiver.got
    if kind is Slack:  # what Slack parses for mentions and links is only the fallback text
        parts = body["blocks"][1]["elements"][0]["elements"]
        assert {part["type"] for part in parts} == {"text"}
        assert "<" not in body["text"]
    else:
        shown = body["attachments"][0]["content"]["body"][1]["text"]
        assert "[y](" not in shown
        assert "https://" not in shown


@pytest.mark.parametrize(
    ("answer", "error", "wait"),
    [
        (web.Response(status=429, headers={"Retry-After": "30"}), ReceiverUnavailable, timedelta(seconds=30)),
        (web.Response(status=500), ReceiverUnavailable, None),
        (web.Response(status=503, headers={"Retry-After": "999999999999"}), ReceiverUnavailable, timedelta(days=1)),
        (web.Response(status=404, text="no_service"), ReceiverRefused, None),
        (web.Response(status=410, text="channel_is_archived"), ReceiverRefused, None),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), ReceiverRefused, None),
        (None, ReceiverUnavailable, None),
    ],
)
async def test_answers_are_classified_and_no_webhook_is_repeated_in_an_error(
    answer: web.Response | None, error: Any, wait: timedelta | None
) -> None:
    receiver = Receiver()
    receiver.answers = [answer]
    async with channel(Slack, receiver) as chat:
        with pytest.raises(error) as raised:
            await chat.send("payments", message_of([sample("job.created")], "slack:payments"), desk=None)
    assert getattr(raised.value, "retry_after", None) == wait
    assert "hook" not in str(raised.value)


async def test_an_address_that_the_settings_do_not_name_is_refused() -> None:
    async with channel(Slack, Receiver()) as chat:
        with pytest.raises(ReceiverRefused, match="KEYTURN_SLACK_WEBHOOKS does not name shipping"):
            await chat.send("shipping", message_of([sample("job.created")], "slack:shipping"), desk=None)


async def pagerduty_got(*notices: Notice) -> list[tuple[str, Any]]:
    receiver = Receiver(pagerduty_fault)
    async with serving(receiver) as url, http_client(4) as http:
        pager = PagerDuty(http, {"security": "R0UTINGKEY"}, url)
        for notice in notices:
            await pager.send("security", message_of([notice], "pagerduty:security"), desk=DESK)
        assert "R0UTINGKEY" not in json.dumps(pager.preview("security", message_of(notices, "x"), desk=None))
    return receiver.got


async def test_an_incident_is_opened_once_for_a_job_and_resolved_with_its_rotation() -> None:
    """The same key, whatever happens to the job; PagerDuty puts events of one key into one incident."""
    ongoing = [sample("rotation.blocked"), sample("old_key.activated"), sample("rotation.done")]
    got = await pagerduty_got(*ongoing)
    events = [(body["event_action"], body["dedup_key"]) for path, body in got if path == "/v2/enqueue"]
    key = "keyturn/default/job_sample_1"
    assert events == [("trigger", key), ("trigger", key), ("resolve", key)]
    assert [body["payload"]["severity"] for _, body in got[:2]] == ["warning", "critical"]


async def test_what_needs_nobody_pages_nobody() -> None:
    """Change events stand beside incidents, and wake no one up."""
    paths = [path for path, _ in await pagerduty_got(sample("rotation.began"), sample("old_key.deactivated"))]
    assert paths == ["/v2/change/enqueue", "/v2/change/enqueue"]


async def test_every_topic_is_an_event_that_the_api_takes() -> None:
    assert len(await pagerduty_got(*samples())) >= len(TOPICS)
    long = sample("approval.waits").model_copy(update={"workflow_id": "rotation:" + "x" * 400})
    assert len(dedup_key(long)) <= 255


def test_the_published_schema_of_a_notice_is_the_codes() -> None:
    assert json.loads(NOTICE_FILE.read_text()) == notice_schema()


class Mailbox:
    """A real SMTP server's handler: refuses what it is made to refuse, and keeps the rest."""

    def __init__(self, refusals: list[str]) -> None:
        self.mails: list[Any] = []
        self._refusals = refusals

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self._refusals:
            return self._refusals.pop(0)
        self.mails.append(envelope)
        return "250 OK"


@asynccontextmanager
async def mail_server(*refusals: str) -> AsyncIterator[tuple[Mail, Mailbox]]:
    box = Mailbox(list(refusals))
    server = Controller(box, hostname="127.0.0.1", port=0)
    # On a port of its own choosing: Controller.start connects to the one that it was given.
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(server.factory, host="127.0.0.1", port=0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield Mail(f"smtp://127.0.0.1:{port}", "Keyturn <keyturn@example.org>"), box
    finally:
        listening.close()


async def test_a_mail_is_plain_text_with_an_id_that_stays_when_it_is_sent_again() -> None:
    message = message_of([sample("job.created", number=n) for n in range(30)], "smtp:team@example.org")
    async with mail_server() as (mail, box):
        for _ in range(2):
            assert await mail.send("team@example.org", message, desk=DESK) == "taken"
    first, second = (envelope.content.decode().replace("\r\n", "\n") for envelope in box.mails)
    assert first == second
    assert box.mails[0].rcpt_tos == ["team@example.org"]
    assert "Message-ID: <notice_sample@example.org>" in first
    assert "Subject: Keyturn: 30 keys must be rotated (payments)" in first
    assert "Auto-Submitted: auto-generated" in first
    assert "and 10 more" in first


@pytest.mark.parametrize(
    ("refusal", "error"),
    [("451 try later", ReceiverUnavailable), ("421 shutting down", ReceiverUnavailable), ("550 no", ReceiverRefused)],
)
async def test_a_mail_servers_refusal_passes_or_does_not(refusal: str, error: Any) -> None:
    message = message_of([sample("job.created")], "smtp:team@example.org")
    async with mail_server(refusal) as (mail, _):
        with pytest.raises(error):
            await mail.send("team@example.org", message, desk=None)


async def test_a_mail_server_that_is_away_is_asked_again_and_one_without_encryption_never() -> None:
    message = message_of([sample("job.created")], "smtp:team@example.org")
    with pytest.raises(ReceiverUnavailable):
        await Mail("smtp://127.0.0.1:1", "k@example.org").send("team@example.org", message, desk=None)
    async with mail_server() as (mail, box):
        port = mail._url.port
        # Not this machine by its name: then the connection must be encrypted.
        strict = Mail(f"smtp://localhost.localdomain.invalid:{port}", "k@example.org")
        with pytest.raises(ReceiverUnavailable):
            await strict.send("team@example.org", message, desk=None)
        assert box.mails == []


@pytest.mark.parametrize(
    ("url", "tls", "start_tls", "port"),
    [
        ("smtp://mail.example.org", False, True, 587),
        ("smtps://mail.example.org", True, None, 465),
        ("smtp://127.0.0.1:25", False, None, 25),
    ],
)
async def test_mail_leaves_this_machine_encrypted_only(
    url: str, tls: bool, start_tls: bool | None, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that offers no encryption gets no password either."""
    asked: dict[str, Any] = {}

    async def send(_mail: Any, **words: Any) -> tuple[dict[str, Any], str]:
        asked.update(words)
        return {}, "ok"

    monkeypatch.setattr("aiosmtplib.send", send)
    message = message_of([sample("job.created")], "smtp:team@example.org")
    await Mail(url, "k@example.org").send("team@example.org", message, desk=None)
    assert (asked["use_tls"], asked["start_tls"], asked["port"]) == (tls, start_tls, port)


async def test_a_mail_server_without_a_sign_in_is_said_to_be_so() -> None:
    message = message_of([sample("job.created")], "smtp:team@example.org")
    async with mail_server() as (mail, box):
        signed_in = Mail(f"smtp://user:word@127.0.0.1:{mail._url.port}", "k@example.org")
        with pytest.raises(ReceiverUnavailable, match="does not offer what KEYTURN_SMTP_URL needs"):
            await signed_in.send("team@example.org", message, desk=None)
        assert box.mails == []


@pytest.mark.parametrize(
    ("settings", "given", "says"),
    [
        (SlackSettings, {"KEYTURN_SLACK_WEBHOOKS": "https://hooks.slack.com/services/T/B/x"}, "NAME:URL"),
        (SlackSettings, {"KEYTURN_SLACK_WEBHOOKS": "a:http://hooks.slack.com/x"}, "must use https"),
        (SlackSettings, {"KEYTURN_SLACK_WEBHOOKS": "a:https://x/1,a:https://x/2"}, "a is listed twice"),
        (TeamsSettings, {"KEYTURN_TEAMS_WEBHOOKS": "a:"}, "is empty"),
        (PagerDutySettings, {"KEYTURN_PAGERDUTY_KEYS": "R0UTINGKEY"}, "NAME:KEY"),
        (SmtpSettings, {"KEYTURN_SMTP_URL": "mail.example.org:25"}, "is not smtp://"),
        (SmtpSettings, {"KEYTURN_SMTP_URL": "smtp://user@mail.example.org"}, "without a password"),
        (SmtpSettings, {"KEYTURN_SMTP_URL": "smtp://mail.example.org"}, "KEYTURN_SMTP_FROM is not set"),
        (
            SmtpSettings,
            {"KEYTURN_SMTP_URL": "smtp://m.example.org", "KEYTURN_SMTP_FROM": "a@b.c\nBcc: x@y.z"},
            "address",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_refused_and_no_secret_is_repeated(
    settings: Any, given: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        settings()
    assert says in str(refused.value)
    assert "R0UTINGKEY" not in str(refused.value)
    assert "services/T/B" not in str(refused.value)


def test_a_url_of_teams_may_have_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signature is in it."""
    url = "https://prod-01.westeurope.logic.azure.com:443/workflows/a/triggers/manual/paths/invoke?api-version=1&sig=x"
    monkeypatch.setenv("KEYTURN_TEAMS_WEBHOOKS", f"payments:{url}")
    assert TeamsSettings().webhooks == SecretStr(f"payments:{url}")
