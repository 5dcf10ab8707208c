"""Trackers against simulators of their APIs: one issue a job, each notice once, whatever answer is lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

import keyturn.notices.issues as issues_module
from keyturn.errors import JobStoreUnavailable, KeyturnError
from keyturn.jobs.errors import DeliveryError, ReceiverRefused, ReceiverUnavailable
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import rotation_jobs
from keyturn.lab.simulator.jira import JiraSimulator
from keyturn.lab.simulator.rest_faults import FAULTS
from keyturn.lab.simulator.servicenow import ServiceNowSimulator
from keyturn.llm.http import http_client
from keyturn.notices.channel import NotifierContext
from keyturn.notices.contracts import CLOSING, TOPICS, Notice, Topic
from keyturn.notices.errors import IssueGone, RoutesInvalid
from keyturn.notices.issue_store import MOST_REMEMBERED, Issue, IssueStore
from keyturn.notices.issues import IssueNotifier, Lags, about_of, text_of
from keyturn.notices.samples import message_of, sample, samples
from keyturn.notices.tables import notice_issues
from keyturn.notifications.jira import Jira, JiraSettings
from keyturn.notifications.servicenow import ServiceNow, ServiceNowSettings
from keyturn.retention import RetentionStore
from keyturn.workers.notices import channels_of_environment, open_notifications
from tests.support.cases import order
from tests.support.servers import fake_server

DESK = "https://desk.example.org"
AT = datetime(2026, 11, 27, 9, tzinfo=UTC)
KINDS = ("jira", "servicenow")
# The simulated search shows an issue after 50 ms; a busy machine takes longer than that for a request.
LAGS = Lags(issue=timedelta(milliseconds=300), note=timedelta(milliseconds=20))
HOSTILE = '" OR project = SECRET ^ORactive=true [code]<script>alert(1)</script>[/code] {"type":"doc"} [~admin] \\u0000'


@dataclass
class Site:
    """A tracker, and what it has."""

    kind: str
    simulator: Any
    notifier: IssueNotifier
    address: str
    retries: list[KeyturnError] = field(default_factory=list)

    async def send(self, *notices: Notice, desk: str | None = DESK) -> None:
        message = message_of(notices, f"{self.kind}:{self.address}")
        assert await self.notifier.send(self.address, message, desk=desk) == "taken"

    async def deliver(self, notice: Notice, *, most: int = 20) -> None:
        """Send a notice as a delivery does: again, and after the wait that an error asks for; as if resent, too."""
        for _ in range(most):
            try:
                return await self.send(notice)
            except (DeliveryError, JobStoreUnavailable) as error:
                self.retries.append(error)
                wait: timedelta = getattr(error, "retry_after", None) or timedelta(0)
                await asyncio.sleep(min(wait.total_seconds(), 0.2))
        raise AssertionError(f"not delivered after {most} attempts: {self.retries[-1]}")

    @property
    def issues(self) -> dict[str, tuple[str, list[str], int]]:
        """By what each issue is about: its text, its notes, and how often it was closed."""
        if self.kind == "jira":
            return {
                one.fields["labels"][1]: (
                    _lines(one.fields["description"]),
                    [_lines(body) for body in one.comments],
                    len(one.moves),
                )
                for one in self.simulator.issues.values()
            }
        return {
            row["correlation_id"].split(":")[1]: (
                row["description"],
                self.simulator.notes[sys_id],
                self.simulator.resolved.get(sys_id, 0),
            )
            for sys_id, row in self.simulator.incidents.items()
        }

    @property
    def count(self) -> int:
        return len(self.simulator.issues if self.kind == "jira" else self.simulator.incidents)

    def fault(self, call: int, name: str) -> None:
        self.simulator.faults.lose(call, name)

    def delete_all(self) -> None:
        if self.kind == "jira":
            for issue_id in list(self.simulator.issues):
                self.simulator.delete(issue_id)
        else:
            self.simulator.incidents.clear()


def _lines(document: Any) -> str:
    return "\n".join("".join(part["text"] for part in node["content"]) for node in document["content"])


@asynccontextmanager
async def site(kind: str, engine: AsyncEngine, *, lags: Lags = LAGS, **settings: Any) -> AsyncIterator[Site]:
    simulator: Any = JiraSimulator(lag=0.05) if kind == "jira" else ServiceNowSimulator()
    async with fake_server(simulator.application()) as url, http_client(4) as http:
        http.auth = httpx.BasicAuth(*simulator.account)
        simulator.faults.elsewhere = "http://127.0.0.1:1"
        api: Any = (
            Jira(http, url, **settings)
            if kind == "jira"
            else ServiceNow(http, url, **{"close_code": "Solution provided", **settings})
        )
        address = "OPS" if kind == "jira" else "Service%20Desk"
        yield Site(kind, simulator, IssueNotifier(kind, api, engine, lags), address)


def one(topic: Topic, number: int = 1) -> Notice:
    """A notice whose event has the same ID in each second."""
    return sample(topic, number=number, at=AT)


def story(number: int = 1) -> list[Notice]:
    """What happens to a job, from its creation to its end."""
    topics: tuple[Topic, ...] = ("job.created", "rotation.began", "rotation.done")
    return [one(topic, number) for topic in topics]


def expect_whole(there: Site, notices: list[Notice], *, closed: int = 1) -> None:
    """One issue has the notices, each once and in their order, and was closed so often."""
    text, notes, closings = there.issues[notices[0].job_id or ""]
    for notice, written in zip(notices, [text, *notes], strict=True):
        assert written.splitlines()[-1] == text_of(notice, None).marker
    assert closings == closed


@pytest.mark.parametrize("kind", KINDS)
async def test_an_issue_is_opened_once_for_a_job_commented_and_closed_with_it(kind: str, engine: AsyncEngine) -> None:
    """With the key's name, its owner and a link to the desk; a message that is sent again changes nothing."""
    async with site(kind, engine) as there:
        for notice in story():
            await there.send(notice)
            await there.send(notice)
        assert there.count == 1
        expect_whole(there, story())
        text = json.dumps(there.simulator.issues["10001"].fields) if kind == "jira" else there.issues["job_sample_1"][0]
        for said in ("key_sample_1 of acct_sample", "payments", f"{DESK}/jobs/job_sample_1"):
            assert said in text
        if kind == "servicenow":
            [row] = there.simulator.incidents.values()
            assert (row["assignment_group"], row["state"]) == ("a" * 32, "6")
            assert row["short_description"] == "Rotate key_sample_1 of acct_sample"
        else:
            assert there.simulator.issues["10001"].fields["labels"] == ["keyturn", "job_sample_1"]


@pytest.mark.parametrize("kind", KINDS)
async def test_whichever_call_of_a_jobs_story_meets_a_fault_the_story_is_told_once(
    kind: str, sqlite_engine: AsyncEngine
) -> None:
    """Every fault, at every call; with retries as a delivery makes them, and resent where it was refused."""
    async with site(kind, sqlite_engine) as there:
        there.fault(0, "")
        for notice in story(0):
            await there.deliver(notice)
        calls, cases = len(there.simulator.faults.calls), 0
        assert calls >= 6
        for fault in FAULTS:
            for call in range(1, calls + 1):
                cases += 1
                there.fault(call, fault)
                for notice in story(cases):
                    await there.deliver(notice)
                expect_whole(there, story(cases))
        assert there.count == cases + 1
        assert len(there.retries) >= cases


@pytest.mark.parametrize("kind", KINDS)
async def test_two_faults_in_a_row_write_nothing_twice(kind: str, sqlite_engine: AsyncEngine) -> None:
    """Answers of the creation and of the search after it; of a comment and of the look for it."""
    async with site(kind, sqlite_engine) as there:
        number = 0
        for call in range(1, 8):
            for second in range(1, 4):
                number += 1
                there.fault(call, "answer_lost")
                is_second_lost = False
                for notice in story(number):
                    for _ in range(20):
                        try:
                            await there.send(notice)
                            break
                        except ReceiverUnavailable as error:
                            if not is_second_lost:
                                there.fault(second, "answer_lost")
                                is_second_lost = True
                            await asyncio.sleep((error.retry_after or timedelta(0)).total_seconds())
                expect_whole(there, story(number))
        assert there.count == number


@pytest.mark.parametrize("kind", KINDS)
async def test_whichever_write_to_the_database_fails_the_story_is_told_once(
    kind: str, sqlite_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its effect or after it: as if the worker was killed there."""
    change, writes, fails = IssueStore._change, 0, (0, "")

    async def fail(store: IssueStore, issue: Issue, **values: Any) -> Issue:
        nonlocal writes
        writes += 1
        if fails == (writes, "before"):
            raise JobStoreUnavailable("away")
        changed = await change(store, issue, **values)
        if fails == (writes, "after"):
            raise JobStoreUnavailable("away")
        return changed

    monkeypatch.setattr(IssueStore, "_change", fail)
    async with site(kind, sqlite_engine) as there:
        for notice in story(0):
            await there.deliver(notice)
        cases = 0
        for write in range(1, writes + 1):
            for when in ("before", "after"):
                cases, writes, fails = cases + 1, 0, (write, when)
                for notice in story(cases):
                    await there.deliver(notice)
                expect_whole(there, story(cases))
        assert cases == 16
        assert there.count == cases + 1
        assert sum(isinstance(error, JobStoreUnavailable) for error in there.retries) == cases


@pytest.mark.parametrize("kind", KINDS)
async def test_an_attempt_ends_before_the_activity_does_and_the_next_one_resumes(
    kind: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker that takes an issue and answers too late has one issue all the same."""
    async with site(kind, engine) as there:
        opened, lags = there.notifier._tracker.open, Lags(timedelta(milliseconds=700), LAGS.note)
        there.notifier._lags = lags

        async def open_slowly(*words: Any) -> str:
            await opened(*words)
            await asyncio.sleep(60)
            raise AssertionError

        monkeypatch.setattr(issues_module, "SEND_WITHIN", 0.5)
        monkeypatch.setattr(there.notifier._tracker, "open", open_slowly)
        with pytest.raises(ReceiverUnavailable, match="in time"):
            await there.send(story()[0])
        monkeypatch.undo()
        for notice in story():
            await there.deliver(notice)
        assert there.count == 1
        expect_whole(there, story())


@pytest.mark.parametrize("kind", KINDS)
async def test_deliveries_that_overlap_open_one_issue(kind: str, engine: AsyncEngine) -> None:
    """As when an attempt timed out at the server, and its worker still runs.

    The lags are longer than a busy machine takes for a request, as they are longer than any request is waited for.
    """
    async with site(kind, engine, lags=Lags(timedelta(seconds=1), timedelta(seconds=1))) as there:
        for notice in story():
            await asyncio.gather(*(there.deliver(notice) for _ in range(4)))
        assert there.count == 1
        expect_whole(there, story())


async def test_while_the_search_may_not_show_an_issue_nothing_is_concluded_from_it(engine: AsyncEngine) -> None:
    """The delivery waits for as long as Jira's search may lag."""
    async with site("jira", engine, lags=Lags(timedelta(minutes=4), timedelta(seconds=30))) as there:
        there.fault(1, "answer_lost")
        with pytest.raises(ReceiverUnavailable):
            await there.send(story()[0])
        for _ in range(3):
            with pytest.raises(ReceiverUnavailable, match="it is asked later what it took") as raised:
                await there.send(story()[0])
            assert timedelta(minutes=3) < (raised.value.retry_after or timedelta(0)) <= timedelta(minutes=4)
        assert there.simulator.faults.calls == ["POST /rest/api/3/issue"]
        async with engine.begin() as connection:  # four minutes later
            earlier = datetime.now(UTC) - timedelta(minutes=5)
            written = {story()[0].event_id: earlier.isoformat()}
            await connection.execute(update(notice_issues).values(intended_at=earlier, written=written))
        there.simulator.issues["10001"].indexed_at = 0
        for notice in story():
            await there.deliver(notice)
        assert there.count == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_is_named_and_leaves_nothing_to_wait_for(kind: str, engine: AsyncEngine) -> None:
    """Once it is fixed and resent, the issue is opened at once."""
    lags = Lags(timedelta(hours=1), timedelta(hours=1))
    async with site(kind, engine, lags=lags) as there:
        account, there.simulator.account = there.simulator.account, ("someone", "else")
        with pytest.raises(ReceiverRefused, match="answered 401"):
            await there.send(story()[0])
        there.simulator.account = account
        creating = 2 if kind == "servicenow" else 1
        there.fault(creating, "throttled")
        with pytest.raises(ReceiverUnavailable) as raised:
            await there.send(story()[0])
        assert raised.value.retry_after == timedelta(seconds=1)
        await there.send(story()[0])
        there.fault(1, "throttled")
        with pytest.raises(ReceiverUnavailable):
            await there.send(story()[1])
        for notice in story():
            await there.send(notice)
        expect_whole(there, story())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tracker_that_cannot_be_connected_to_is_asked_again_at_once(kind: str, engine: AsyncEngine) -> None:
    """No request has left, so none is looked for."""
    hour = timedelta(hours=1)
    async with http_client(1) as http:
        api: Any = (Jira if kind == "jira" else ServiceNow)(
            http, "http://127.0.0.1:1", **({} if kind == "jira" else {"close_code": "x"})
        )
        notifier = IssueNotifier(kind, api, engine, Lags(hour, hour))
        for _ in range(2):
            with pytest.raises(ReceiverUnavailable, match="did not answer") as raised:
                await notifier.send("OPS", message_of([story()[0]], "x"), desk=None)
            assert raised.value.retry_after is None


@pytest.mark.parametrize("kind", KINDS)
async def test_an_issue_that_was_deleted_is_opened_anew_by_the_next_notice(kind: str, engine: AsyncEngine) -> None:
    async with site(kind, engine) as there:
        first, second, last = story()
        await there.send(first)
        there.delete_all()
        with pytest.raises(IssueGone):
            await there.send(second)
        await there.deliver(second)
        await there.deliver(second)
        assert there.count == 1
        there.delete_all()
        await there.deliver(last)
        assert there.count == 0, "what ends well needs no issue"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_rotation_is_noted_and_a_cancelled_job_is_closed(kind: str, engine: AsyncEngine) -> None:
    async with site(kind, engine) as there:
        failed = [one("job.created"), one("rotation.failed")]
        for notice in failed:
            await there.send(notice)
        expect_whole(there, failed, closed=0)
        await there.send(cancelled := one("job.cancelled"))
        expect_whole(there, [*failed, cancelled])
        await there.send(late := one("old_key.activated"))
        expect_whole(there, [*failed, cancelled, late])


@pytest.mark.parametrize("kind", KINDS)
async def test_an_issue_that_a_person_has_closed_stays_as_it_is(kind: str, engine: AsyncEngine) -> None:
    async with site(kind, engine) as there:
        await there.send(story()[0])
        if kind == "jira":
            there.simulator.issues["10001"].status = "Won't Do"
        else:
            [row] = there.simulator.incidents.values()
            row["state"] = "7"
        await there.send(done := story()[2])
        expect_whole(there, [story()[0], done], closed=0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_that_ends_well_without_an_issue_opens_none(kind: str, engine: AsyncEngine) -> None:
    """Its route may take warnings only: the end is sent to close what they opened."""
    async with site(kind, engine) as there:
        for topic in sorted(CLOSING):
            await there.send(one(topic))
        assert there.count == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_every_topic_has_an_issue_by_its_job_its_rotation_or_itself(kind: str, engine: AsyncEngine) -> None:
    async with site(kind, engine) as there:
        for notice in samples():
            await there.send(notice, desk=None)
        assert there.count == len(set(TOPICS) - CLOSING)
        waits = [one("approval.waits"), one("approval.expires")]
        for notice in waits:
            await there.send(notice)
        assert about_of(waits[0]) == about_of(waits[1])
        assert len(there.issues[about_of(waits[0])][1]) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_what_others_wrote_is_text_and_no_query(kind: str, engine: AsyncEngine) -> None:
    """In a reason, in a workflow's name, in an event's ID; and a reason that says it is another notice's marker."""
    marker = text_of(story()[2], None).marker
    first = one("job.created").model_copy(update={"facts": {"reason": HOSTILE, "by": marker}})
    waits = one("approval.waits").model_copy(update={"workflow_id": HOSTILE, "event_id": HOSTILE})
    async with site(kind, engine) as there:
        await there.send(first)
        text = there.issues["job_sample_1"][0]
        assert "alert(1)" in text
        if kind == "servicenow":
            assert "[code]" not in text
            assert "[/code]" not in text
        for faulty in (waits, story()[2]):
            there.fault(2 if kind == "servicenow" and faulty is waits else 1, "answer_lost")
            await there.deliver(faulty)
        assert there.count == 2
        assert [note.splitlines()[-1] for note in there.issues["job_sample_1"][1]] == [marker]
        assert set(there.issues) == {"job_sample_1", about_of(waits)}
        assert about_of(waits).replace("keyturn-", "").isalnum()


async def test_a_long_text_loses_its_middle_and_never_its_marker(engine: AsyncEngine) -> None:
    """ServiceNow truncates what is longer than its field in silence."""
    long = {f"fact_{number}": "x" * 500 for number in range(16)}
    notices = [one.model_copy(update={"facts": long}) for one in story()]
    async with site("servicenow", engine) as there:
        for notice in notices:
            await there.send(notice)
        expect_whole(there, notices)


async def test_jira_moves_an_issue_by_the_transition_that_settings_name(engine: AsyncEngine) -> None:
    for done in ("Won't Do", "drop"):
        async with site("jira", engine, done=done) as there:
            number = 5 if done == "drop" else 6
            for notice in story(number):
                await there.send(notice)
            assert [one.status for one in there.simulator.issues.values()] == ["Won't Do"]


async def test_what_jiras_workflow_or_fields_lack_is_named(engine: AsyncEngine) -> None:
    """By the fields' IDs and the setting, and with nothing that was written."""
    async with site("jira", engine) as there:
        there.simulator.required = {"customfield_10010"}
        with pytest.raises(ReceiverRefused, match="400 to the fields customfield_10010"):
            await there.send(story()[0])
        there.simulator.required = set()
        await there.send(story()[0])
        there.simulator.on_screen = {"21": "resolution", "31": "resolution"}
        with pytest.raises(ReceiverRefused, match="400 to the fields resolution"):
            await there.send(story()[2])
        there.simulator.workflow = {"To Do": [("11", "Start", "In Progress")]}
        with pytest.raises(ReceiverRefused, match="set KEYTURN_JIRA_DONE"):
            await there.send(story()[2])
        there.simulator.workflow, there.simulator.on_screen = {"To Do": [("31", "Finish", "Done")]}, {}
        await there.send(story()[2])
        expect_whole(there, [story()[0], story()[2]])
        with pytest.raises(ReceiverRefused, match="jira:PROJECTKEY"):
            await there.notifier.send('OPS" OR 1=1', message_of([one("job.created", 9)], "x"), desk=None)


async def test_a_comment_is_found_among_hundreds(engine: AsyncEngine) -> None:
    async with site("jira", engine) as there:
        await there.send(story()[0])
        there.fault(1, "answer_lost")
        with pytest.raises(ReceiverUnavailable):
            await there.send(story()[1])
        [issue] = there.simulator.issues.values()
        by_others = {"type": "doc", "version": 1, "content": [{"type": "rule"}, {"type": "mediaGroup", "content": []}]}
        issue.comments += [by_others] * 450
        await there.deliver(story()[1])
        assert len(issue.comments) == 451


async def test_groups_of_servicenow_are_looked_up_by_name_and_an_unknown_one_is_refused(engine: AsyncEngine) -> None:
    """ServiceNow would leave the incident to no one, and say nothing."""
    async with site("servicenow", engine) as there:
        refused = {"Nobody": "knows no assignment group", "a%5Eb": "names no group", "javascript:x": "names no group"}
        for address, said in refused.items():
            there.address = address
            with pytest.raises(ReceiverRefused, match=said):
                await there.send(one("job.created"))
        assert there.count == 0
        for number, address in enumerate(("default", "a" * 32, "Service%20Desk")):
            there.address = address
            await there.send(one("job.created", number))
        groups = [row.get("assignment_group") for row in there.simulator.incidents.values()]
        assert groups == [None, "a" * 32, "a" * 32]


async def test_each_group_has_an_incident_of_a_job(engine: AsyncEngine) -> None:
    """Where routes lead to several, none finds the incident of another one."""
    async with site("servicenow", engine) as there:
        for address in ("default", "Service%20Desk"):
            there.address = address
            there.fault(2, "answer_lost")
            for notice in story():
                await there.deliver(notice)
        rows = list(there.simulator.incidents.values())
        assert [row.get("assignment_group") for row in rows] == [None, "a" * 32]
        assert len({row["correlation_id"] for row in rows}) == 2
        assert [len(notes) for notes in there.simulator.notes.values()] == [2, 2]


async def test_what_servicenows_user_may_not_do_is_named(engine: AsyncEngine) -> None:
    async with site("servicenow", engine) as there:
        await there.send(story()[0])
        there.simulator.read_only = {"state"}
        with pytest.raises(ReceiverRefused, match="may not write its state"):
            await there.send(story()[2])
        there.simulator.read_only, there.simulator.hidden = set(), {"work_notes"}
        there.fault(1, "answer_lost")
        with pytest.raises(ReceiverUnavailable):
            await there.send(story()[1])
        await asyncio.sleep(0.05)
        with pytest.raises(ReceiverRefused, match="does not show work notes"):
            await there.send(story()[1])
    async with site("servicenow", engine, close_code="Solved (Permanently)") as there:
        with pytest.raises(ReceiverRefused, match="answered 403"):
            await there.send(*story(7))


async def test_what_an_issue_has_is_remembered_within_bounds(engine: AsyncEngine) -> None:
    """A request without an answer is remembered for as long as it has none."""
    store = IssueStore(engine)
    issue = Issue("default", "jira:OPS", "job_1", "job_1")
    issue = await store.begin(issue, "lost", creates=True)
    for number in range(MOST_REMEMBERED + 30):
        issue = await store.record(issue, f"event-{number}")
    found = await store.load(issue)
    assert found == issue
    assert found.tried_at("lost") == issue.intended_at
    assert len(found.written) == MOST_REMEMBERED + 1
    assert (found.has("event-29"), found.has("event-30")) == (False, True)


async def test_an_issue_is_remembered_as_long_as_its_job_is_open(engine: AsyncEngine, store: JobStore) -> None:
    """However long ago its last notice was."""
    job = await store.create_once(order(), idempotency_key="r:1", fence=1)
    issues = IssueStore(engine)
    for about, job_id in ((job.job_id, job.job_id), ("keyturn-x", None), ("job_gone", "job_gone")):
        await issues.begin(Issue("default", "jira:OPS", about, job_id), "event-1", creates=True)
    limits = {"notices": datetime.now(UTC) + timedelta(minutes=1)}
    await RetentionStore(engine).delete(limits)  # type: ignore[arg-type]
    remaining = select(notice_issues.c.about)
    async with engine.begin() as connection:
        assert (await connection.execute(remaining)).scalars().all() == [job.job_id]
        await connection.execute(update(rotation_jobs).values(status="done"))
    await RetentionStore(engine).delete(limits)  # type: ignore[arg-type]
    async with engine.begin() as connection:
        assert (await connection.execute(remaining)).scalars().all() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_preview_shows_the_issue_and_asks_no_one(kind: str, engine: AsyncEngine) -> None:
    async with site(kind, engine) as there:
        shown = json.dumps(there.notifier.preview(there.address, message_of(story(), "x"), desk=DESK))
        assert "Rotate key_sample_1 of acct_sample" in shown
        assert there.simulator.account[1] not in shown
        assert there.simulator.faults.calls == []


JIRA = {"KEYTURN_JIRA_URL": "https://x.atlassian.net", "KEYTURN_JIRA_USER": "a@b.c", "KEYTURN_JIRA_TOKEN": "T0KEN"}
NOW = {
    "KEYTURN_SERVICENOW_URL": "https://x.service-now.com",
    "KEYTURN_SERVICENOW_USER": "keyturn",
    "KEYTURN_SERVICENOW_PASSWORD": "T0KEN",
}


@pytest.mark.parametrize(
    ("settings", "given", "says"),
    [
        (JiraSettings, {**JIRA, "KEYTURN_JIRA_URL": "http://x.atlassian.net"}, "must use https"),
        (JiraSettings, {**JIRA, "KEYTURN_JIRA_URL": "https://a@b.c:T0KEN@x.atlassian.net"}, "neither a password"),
        (JiraSettings, {**JIRA, "KEYTURN_JIRA_TOKEN": ""}, "KEYTURN_JIRA_TOKEN is not set"),
        (JiraSettings, {**JIRA, "KEYTURN_JIRA_TOKEN": "T0KEN\nX"}, "KEYTURN_JIRA_TOKEN"),
        (JiraSettings, {**JIRA, "KEYTURN_JIRA_USER": "a@b.c:T0KEN"}, "without a colon"),
        (ServiceNowSettings, {**NOW, "KEYTURN_SERVICENOW_URL": "x.service-now.com"}, "http:// or https://"),
        (ServiceNowSettings, {**NOW, "KEYTURN_SERVICENOW_PASSWORD": ""}, "KEYTURN_SERVICENOW_PASSWORD is not set"),
        (ServiceNowSettings, {**NOW, "KEYTURN_SERVICENOW_CLOSE_CODE": "x" * 41}, "KEYTURN_SERVICENOW_CLOSE_CODE"),
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
    assert "T0KEN" not in str(refused.value)


async def test_a_tracker_is_set_up_by_its_settings_and_named_by_a_route(
    sqlite_engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker and `keyturn notify` open it, with the account that the settings name."""
    jira, now = JiraSimulator(account=("a@b.c", "T0KEN")), ServiceNowSimulator(account=("keyturn", "T0KEN"))
    routes = tmp_path / "routes.toml"
    routes.write_text('[[route]]\nto = ["jira:OPS", "servicenow:default"]\n')
    async with fake_server(jira.application()) as of_jira, fake_server(now.application()) as of_now:
        urls = {"KEYTURN_JIRA_URL": f"{of_jira}/", "KEYTURN_SERVICENOW_URL": of_now, "KEYTURN_NOTIFY": str(routes)}
        for name, value in {**JIRA, **NOW, **urls}.items():
            monkeypatch.setenv(name, value)
        context = NotifierContext(2, sqlite_engine)
        async with open_notifications(channels_of_environment(), context) as found:
            assert found is not None
            assert found.alone == {"jira", "servicenow"}
            for destination in found.routes.destinations:
                name, _, address = destination.partition(":")
                for notice in story():
                    await found.notifiers[name].send(address, message_of([notice], destination), desk=None)
        assert "T0KEN" not in repr([settings() for settings in (JiraSettings, ServiceNowSettings)])
        routes.write_text(
            '[[route]]\nto = ["jira:ops", "jira", "servicenow", "servicenow:a^b", "servicenow:javascript:x"]\n'
        )
        with pytest.raises(RoutesInvalid) as refused:
            async with open_notifications(channels_of_environment(), context):
                pass
        assert [line.partition(", ")[2].split(" names no ")[0] for line in str(refused.value).splitlines()] == [
            "jira:", "jira:ops:", "servicenow:", "servicenow:a^b:", "servicenow:javascript:x:",
        ]  # fmt: skip
    assert [len(one.moves) for one in jira.issues.values()] == [1]
    assert list(now.resolved.values()) == [1]
