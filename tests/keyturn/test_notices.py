"""Notices: what becomes one, where it goes and when, and that it is written and sent once."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.tables import bulk_runs
from keyturn.execution.contracts import KeyWaits
from keyturn.execution.plans import evidence_of
from keyturn.execution.trails import Record
from keyturn.exposures.contracts import Exposure
from keyturn.exposures.store import ExposureStore
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import job_audit, rotation_events, rotation_jobs
from keyturn.notices.contracts import FACTS, Notice, Topic
from keyturn.notices.errors import RoutesInvalid, UnknownMessage
from keyturn.notices.readings import notice_of_job_event
from keyturn.notices.routing import Routes, Send, faults_of_destinations, load_routes
from keyturn.notices.samples import message_of, sample, samples
from keyturn.notices.sources import NoticeSources
from keyturn.notices.store import NoticeStore
from keyturn.notices.tables import notice_sends, notices
from keyturn.notices.wording import HEADLINES, as_text, headline, link, sentence
from keyturn.owners import OwnerRule, Owners
from keyturn.patterns import Pattern
from keyturn.policy.catalogue import load_catalogue
from keyturn.retention import RetentionStore
from keyturn.rotations.contracts import RotationEvent
from keyturn.waivers.contracts import Waiver
from keyturn.waivers.store import WaiverStore
from tests.support.cases import facts, order

NOW = datetime(2026, 11, 27, 12, 7, tzinfo=UTC)  # a Friday
DESK = "https://desk.example.org"


def routes(*tables: dict[str, Any], **more: Any) -> Routes:
    return Routes.model_validate({"route": list(tables), **more})


def ways(found: Routes, notice: Notice, now: datetime = NOW, **more: Any) -> dict[str, datetime]:
    return {send.destination: send.due_at for send in found.sends(notice, now, **more)}


# -- routing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "takes"),
    [
        ({}, True),
        ({"owners": ["payments"]}, True),
        ({"owners": ["shipping"]}, False),
        ({"owners": ["unowned"]}, False),
        ({"topics": ["job.overdue"]}, True),
        ({"topics": ["job.*"]}, True),
        ({"topics": ["rotation.*", "approval.*"]}, False),
        ({"severities": ["urgent"]}, False),
        ({"severities": ["warning", "urgent"]}, True),
        ({"tenants": ["another"]}, False),
    ],
)
def test_a_notice_goes_by_the_routes_that_match(table: dict[str, Any], takes: bool) -> None:
    assert (ways(routes({"to": ["slack:a"], **table}), sample("job.overdue")) != {}) is takes


def test_keys_without_an_owner_have_a_route_of_their_own() -> None:
    found = routes({"to": ["slack:platform"], "owners": ["unowned"]})
    assert ways(found, sample("job.overdue", owner=None)) != {}


def test_a_notice_goes_to_each_destination_once_by_the_earliest_of_its_routes() -> None:
    found = routes({"to": ["slack:a", "smtp:x@y.z"], "digest_minutes": 60}, {"to": ["slack:a"], "digest_minutes": 0})
    assert ways(found, sample("job.created")) == {"slack:a": NOW, "smtp:x@y.z": datetime(2026, 11, 27, 13, tzinfo=UTC)}


def test_an_owners_notices_of_a_window_are_due_together_and_urgent_ones_at_once() -> None:
    found = routes({"to": ["slack:a"], "digest_minutes": 30})
    quarter = datetime(2026, 11, 27, 12, 30, tzinfo=UTC)
    for minute in (0, 1, 29):
        assert ways(found, sample("job.created"), NOW.replace(minute=minute)) == {"slack:a": quarter}
    urgent = sample("old_key.activated")
    assert ways(found, urgent) == {"slack:a": NOW}
    assert ways(found, sample("job.created"), alone={"slack"}) == {"slack:a": NOW}
    assert ways(routes({"to": ["slack:a"], "owners": ["@Payments"]}), sample("job.created")) != {}
    [one], [other] = (
        found.sends(sample("job.created", number=1), NOW),
        found.sends(sample("job.overdue", number=2), NOW),
    )
    assert one.grouped_by == other.grouped_by != found.sends(urgent, NOW)[0].grouped_by
    assert one.grouped_by != found.sends(sample("job.created", owner="shipping"), NOW)[0].grouped_by
    elsewhere = sample("job.created").model_copy(update={"tenant_id": "other"})
    assert one.grouped_by != found.sends(elsewhere, NOW)[0].grouped_by


def test_of_two_routes_to_one_destination_the_one_that_sends_earlier_counts() -> None:
    tables = {"to": ["slack:a"], "digest_minutes": 0}, {"to": ["slack:a"], "digest_minutes": 60}
    for order_of_tables in (tables, tables[::-1]):
        assert ways(routes(*order_of_tables), sample("job.created")) == {"slack:a": NOW}


def test_a_digest_that_ends_in_quiet_hours_waits_until_these_end() -> None:
    table = {"to": ["slack:a"], "digest_minutes": 60, "quiet": {"from": "20:00", "to": "07:00"}}
    at = datetime(2026, 11, 27, 19, 50, tzinfo=UTC)
    assert ways(routes(table), sample("job.created"), at) == {"slack:a": datetime(2026, 11, 28, 7, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("clock", "ends"),
    [
        ("2026-11-27T19:59:00", None),
        ("2026-11-27T20:00:00", "2026-11-28T07:00:00"),
        ("2026-11-28T00:30:00", "2026-11-28T07:00:00"),
        ("2026-11-28T06:59:00", "2026-11-28T07:00:00"),
        ("2026-11-28T07:00:00", None),
        ("2026-03-28T23:00:00", "2026-03-29T07:00:00"),  # the night in which Berlin's clocks go forward
        ("2026-10-24T23:00:00", "2026-10-25T07:00:00"),  # and back
    ],
)
def test_in_quiet_hours_notices_wait_until_these_end_on_the_clock_of_their_zone(clock: str, ends: str | None) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    table = {"to": ["slack:a"], "digest_minutes": 0, "quiet": {"from": "20:00", "to": "07:00"}}
    found = routes(table, zone="Europe/Berlin")
    now = datetime.fromisoformat(clock).replace(tzinfo=berlin).astimezone(UTC)
    expected = now if ends is None else datetime.fromisoformat(ends).replace(tzinfo=berlin).astimezone(UTC)
    assert ways(found, sample("job.created"), now) == {"slack:a": expected}
    assert ways(found, sample("old_key.activated"), now) == {"slack:a": now}
    assert ways(found, sample("job.created"), now, alone={"slack"}) == {"slack:a": expected}


def test_what_was_opened_for_a_job_hears_how_the_job_ends() -> None:
    """Whatever the route asks for: an incident would stay open for ever. Of the route's owners alone."""
    table = {"to": ["pagerduty:x", "slack:a"], "severities": ["urgent"], "owners": ["payments"]}
    for topic in ("rotation.done", "job.cancelled"):
        assert list(ways(routes(table), sample(topic), closing={"pagerduty"})) == ["pagerduty:x"]
        assert ways(routes(table), sample(topic, owner="other"), closing={"pagerduty"}) == {}
    assert ways(routes(table), sample("rotation.began"), closing={"pagerduty"}) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "route"),
        ("[[route]]\nto = []", "to"),
        ('[[route]]\nto = ["slack:a"]\ntopics = ["job.finished"]', "names no topic"),
        ('[[route]]\nto = ["Slack a"]', "to"),
        ('[[route]]\nto = ["slack:a"]\nquiet = { from = "20:00", to = "20:00" }', "are the same"),
        ('[[route]]\nto = ["slack:a"]\nquiet = { from = "25:00", to = "20:00" }', "write a time of day"),
        ('[[route]]\nto = ["slack:a"]\ndigest_minutes = 2000', "1440"),
        ('[[route]]\nto = ["slack:a"]\nowner = ["payments"]', r"\[\[route\]\] 1, owner: is not known here"),
        ('zone = "Mars/Olympus"\n[[route]]\nto = ["slack:a"]', "time zone"),
        ('desk = "desk.example.org"\n[[route]]\nto = ["slack:a"]', "http"),
        ("[[route]\n", "is not TOML"),
    ],
)
def test_a_file_of_routes_that_cannot_be_used_is_refused_with_the_place(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "notify.toml"
    file.write_text(text)
    with pytest.raises(RoutesInvalid, match=says):
        load_routes(file)


def test_a_destination_that_leads_nowhere_is_named() -> None:
    """An owner who never hears of anything would be worse than a worker that does not start."""
    found = routes({"to": ["slack:a", "slack:b", "teams:x", "smtp:x@y.z", "webhook"]})
    faults = faults_of_destinations(found, {"slack": {"a"}, "smtp": None, "webhook": ("",)})
    assert faults == [
        "slack:b: the settings of slack name a",
        "teams:x: the channel teams is not set up here by its settings KEYTURN_TEAMS_*, and slack, smtp, webhook is",
    ]


# -- wording ----------------------------------------------------------------------------------------------------------


def test_every_topic_has_its_words() -> None:
    for notice in samples():
        assert sentence(notice).endswith(".")
        assert headline(message_of([notice], "slack:a")).startswith(f"1 {HEADLINES[notice.topic][0]}")


def test_a_digest_says_how_many_of_each_and_names_some() -> None:
    many = [sample("job.created", number=number) for number in range(800)] + [sample("job.overdue", number=900)]
    message = message_of(many, "slack:payments")
    assert headline(message) == "800 keys must be rotated, 1 job is overdue (payments)"
    text = as_text(message, DESK)
    assert text.count("\n- ") == 20
    assert "and 781 more" in text
    assert f"{DESK}/jobs/job_sample_900" in text


def test_links_lead_to_the_page_of_exactly_what_a_notice_is_about() -> None:
    by_topic: dict[Topic, str] = {
        "approval.waits": "/rotations/rotation%3Adefault%3Asample-1",
        "job.overdue": "/jobs/job_sample_1",
        "run.finished": "/runs",
        "waiver.ends": "/waivers",
        "spend.over": "",
    }
    for topic, path in by_topic.items():
        assert link(sample(topic), f"{DESK}/") == DESK + path
    assert link(sample("job.overdue"), None) is None


# -- what becomes a notice --------------------------------------------------------------------------------------------

JOB_ROW: dict[str, Any] = {
    "audit_id": 7, "tenant_id": "default", "at": NOW, "owner": "payments", "account_id": "acct_1", "key_id": "key_1",
    "policy_lines": ["P-7@1"], "job_id": "job_1", "rotate_by": NOW, "priority": 3, "actor": "omar",
}  # fmt: skip


@pytest.mark.parametrize(
    ("event", "detail", "topic", "severity"),
    [
        ("created", {"decision_digest": "v1:0"}, "job.created", "info"),
        ("tightened", {}, "job.tightened", "info"),
        ("rotating", {"cloud_account": "1", "user": "x", "overlap": "24 hours"}, "rotation.began", "info"),
        ("rotating", {"try": "1"}, None, None),
        ("verifying", {"verified": "k"}, None, None),
        ("grace", {"deactivated": "k", "last_used": "never"}, "old_key.deactivated", "info"),
        ("grace", {"activating": "k", "used_by": "role/x"}, "old_key.activated", "urgent"),
        ("verifying", {"blocked": "old_key_in_use", "by": "role/x"}, "rotation.blocked", "warning"),
        ("done", {}, "rotation.done", "info"),
        ("failed", {"reason": "the user has 2 keys"}, "rotation.failed", "urgent"),
        ("failed", {"reason": "rolled back by omar: the app broke"}, "rotation.rolled_back", "warning"),
        ("cancelled", {"reason": "not ours"}, "job.cancelled", "info"),
        ("claimed", {}, None, None),
        ("delivered", {"answer": "taken"}, None, None),
    ],
)
def test_events_of_a_job_become_notices(
    event: str, detail: dict[str, str], topic: str | None, severity: str | None
) -> None:
    """Names and dates: no evidence, and nothing of a trail that is for auditors."""
    found = notice_of_job_event(JOB_ROW | {"event": event, "detail": detail})
    assert (found and found.topic, found and found.severity) == (topic, severity)
    if found is not None:
        assert "decision_digest" not in found.facts
        assert set(found.facts) <= set(FACTS[found.topic]), "as the documentation has it"
        assert (found.event_id, found.owner) == ("job-7", "payments")


def test_an_owner_reads_what_a_rotation_will_change_and_when_at_the_earliest() -> None:
    """Written by the executor before it changes anything."""
    record = Record(
        old="AKIA1",
        created_at=NOW,
        before=("AKIA1",),
        targets=("file:/run/pay", "vault:kv/pay"),
        consumers=("billing",),
        waits=KeyWaits(overlap=timedelta(hours=24), quiet=timedelta(hours=24), grace=timedelta(days=7)),
    )
    detail = {"cloud_account": "1", "user": "x"} | record.as_evidence()
    detail |= evidence_of(record.waits, rotate_by=None, now=NOW)
    began = notice_of_job_event(JOB_ROW | {"event": "rotating", "detail": detail})
    assert began is not None
    assert set(began.facts) <= set(FACTS["rotation.began"])
    said = sentence(began)
    assert "the new secret goes to file:/run/pay, vault:kv/pay" in said
    assert "these must report that they have it: billing" in said
    assert "the old key is deactivated at the earliest on 2026-11-28 12:07" in said
    assert "and is deleted at the earliest on 2026-12-05 12:07" in said


@pytest.mark.parametrize(
    ("kind", "says", "to_do"),
    [
        ("old_key_in_use", "it is still used, by role/x", "keyturn rollback job_1"),
        ("new_key_not_seen", "no use of the new key was seen", "keyturn advance job_1"),
        ("consumers_not_moved", "not all consumers have the new key", "keyturn jobs moved"),
        ("key_use_unknown", "whether it is still used is not known", "the right to read when keys are used"),
    ],
)
def test_why_an_old_key_stays_is_said_in_words_with_what_to_do(kind: str, says: str, to_do: str) -> None:
    row = JOB_ROW | {"event": "verifying", "detail": {"blocked": kind, "by": "role/x"}}
    found = notice_of_job_event(row)
    assert found is not None
    assert set(found.facts) <= set(FACTS["rotation.blocked"])
    assert says in sentence(found)
    assert to_do in sentence(found)


def test_a_compromised_keys_job_is_urgent_and_a_purged_one_says_nothing() -> None:
    """Also of a key that had a job already."""
    exposed = notice_of_job_event(JOB_ROW | {"event": "tightened", "detail": {"priority": "urgent"}})
    assert exposed is not None
    assert (exposed.severity, "the key was exposed" in sentence(exposed)) == ("urgent", True)
    urgent = notice_of_job_event(JOB_ROW | {"event": "created", "detail": {}, "priority": 1})
    assert urgent is not None
    assert urgent.severity == "urgent"
    assert notice_of_job_event(JOB_ROW | {"event": "created", "detail": {}, "account_id": None}) is None


@pytest.fixture
async def sources(engine: AsyncEngine) -> NoticeSources:
    found = NoticeSources(engine, Owners())
    await found.start(datetime.now(UTC))
    return found


async def topics(engine: AsyncEngine) -> list[str]:
    """Of all notices; each has no facts but those that its topic may have."""
    async with engine.connect() as connection:
        found = (await connection.execute(select(notices.c.topic, notices.c.content).order_by(notices.c.topic))).all()
    assert [topic for topic, content in found if not set(content["facts"]) <= set(FACTS[topic])] == []
    return [topic for topic, _ in found]


async def test_a_rotation_that_an_executor_cannot_go_on_with_is_parked_work_of_its_jobs_owner(
    engine: AsyncEngine, store: JobStore, sources: NoticeSources
) -> None:
    """As Temporal's list has it: the trail says nothing of what blocks a step. Said once for each kind."""
    job_id = await made(store, 1, owner="payments", recorded_owner="payments")
    held, now = NoticeStore(engine), datetime.now(UTC)
    for kind in ("target_unusable", "target_unusable", "cloud_refused", "old_key_used_again"):
        await held.add(await sources.of_blocked({job_id: ("run-1", kind), "job_unknown": ("run-2", kind)}, now))
    assert await topics(engine) == ["rotation.parked", "rotation.parked"]
    [notice] = await sources.of_blocked({job_id: ("run-1", "target_unusable")}, now)
    assert (notice.job_id, notice.owner, notice.policy_lines) == (job_id, "payments", ("P-7@1",))
    said = sentence(notice)
    assert "because of target unusable" in said
    assert f"see keyturn status {job_id}" in said


async def test_of_many_blocked_rotations_each_is_notified_of(
    store: JobStore, sources: NoticeSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are for one query."""
    monkeypatch.setattr("keyturn.notices.sources.PAGE", 2)
    jobs = {await made(store, number): (f"run-{number}", "target_unusable") for number in range(5)}
    found = await sources.of_blocked(jobs, datetime.now(UTC))
    assert sorted(str(one.job_id) for one in found) == sorted(jobs)


async def made(store: JobStore, number: int, **changed: Any) -> str:
    ordered = order(credential=facts(key_id=f"key_{number}")).model_copy(update={"owner": "payments", **changed})
    return (await store.create_once(ordered, idempotency_key=f"r:{number}", fence=1)).job_id


async def test_what_happens_to_a_job_is_found_once_however_often_and_by_however_many_it_is_looked_for(
    engine: AsyncEngine, store: JobStore, sources: NoticeSources
) -> None:
    job_id = await made(store, 1)
    claims, held = JobLeases(engine), NoticeStore(engine)
    claim = await claims.claim(job_id, tenant_id="default", owner="execute:x", lease=timedelta(minutes=1))
    await claims.fail(job_id, tenant_id="default", token=claim.token, reason="rolled back")
    await asyncio.gather(*(sources.gather(held, datetime.now(UTC)) for _ in range(3)))
    await sources.gather(held, datetime.now(UTC) + timedelta(minutes=5))
    await made(store, 2)
    await sources.gather(held, datetime.now(UTC) + timedelta(minutes=6))
    assert await topics(engine) == ["job.created", "job.created", "rotation.failed"]


async def test_an_exposed_key_that_no_inventory_names_is_an_urgent_notice_and_one(
    engine: AsyncEngine, sources: NoticeSources
) -> None:
    """Nothing rotates it: a person must find out whose it is."""
    held, exposures = NoticeStore(engine), ExposureStore(engine)
    for account, key in ((None, "AKIAOFNOBODY00000000"), ("svc-pay", "AKIAOFPAY00000000000")):
        await exposures.add(
            Exposure(
                tenant_id="default",
                account_id=account,
                key_id=key,
                source="github",
                reported_by="scan",
                reported_at=datetime.now(UTC),
                place="https://github.com/o/r",
            )
        )
    for _ in range(2):
        await sources.gather(held, datetime.now(UTC))
    assert await topics(engine) == ["exposure.unknown"]
    async with engine.connect() as connection:
        [content] = (await connection.execute(select(notices.c.content))).scalars()
    notice = Notice.model_validate(content)
    assert (notice.severity, notice.account_id) == ("urgent", None)
    assert sentence(notice) == (
        "Exposed key is in no inventory: AKIAOFNOBODY00000000, found by github, at https://github.com/o/r, "
        "reported by scan."
    )
    assert link(notice, DESK) == f"{DESK}/exposed"


async def test_keys_whose_ids_are_as_long_as_may_be_are_said_once_and_hold_up_no_other(
    engine: AsyncEngine, sources: NoticeSources
) -> None:
    held, exposures = NoticeStore(engine), ExposureStore(engine)
    for key in ("k" * 250, "AKIAOFNOBODY00000000"):
        mark = {"tenant_id": "default", "account_id": None, "key_id": key, "source": "github", "reported_by": "scan"}
        await exposures.add(Exposure(**mark, reported_at=datetime.now(UTC)))
    found = [await sources.gather(held, datetime.now(UTC)) for _ in range(2)]
    assert found == [2, 0]
    assert await topics(engine) == ["exposure.unknown"] * 2


async def test_what_happened_before_anyone_was_to_hear_of_it_is_no_notice(engine: AsyncEngine, store: JobStore) -> None:
    await made(store, 1)
    sources, held = NoticeSources(engine, Owners()), NoticeStore(engine)
    await sources.start(datetime.now(UTC))
    await sources.start(datetime.now(UTC) + timedelta(hours=1))  # another worker, later: the first one's place counts
    await made(store, 2)
    await sources.gather(held, datetime.now(UTC))
    assert await topics(engine) == ["job.created"]


async def test_a_row_that_is_written_late_under_a_lower_number_is_found(
    engine: AsyncEngine, store: JobStore, sources: NoticeSources
) -> None:
    """A transaction that took its number first may commit last."""
    job_id, held = await made(store, 1), NoticeStore(engine)
    async with engine.begin() as connection:
        row = {"job_id": job_id, "at": datetime.now(UTC), "event": "done", "actor": "x", "detail": {}}
        await connection.execute(insert(job_audit).values(audit_id=1_000, **row))
    await sources.gather(held, datetime.now(UTC))
    async with engine.begin() as connection:
        await connection.execute(insert(job_audit).values(audit_id=999, **row | {"event": "cancelled"}))
    await sources.gather(held, datetime.now(UTC))
    assert await topics(engine) == ["job.cancelled", "job.created", "rotation.done"]


async def test_an_event_that_is_written_a_day_late_is_found(
    engine: AsyncEngine, store: JobStore, sources: NoticeSources
) -> None:
    """The database was away, or no worker was there: just then, people must hear of it."""
    held, now = NoticeStore(engine), datetime.now(UTC)
    await sources.gather(held, now + timedelta(minutes=30))
    event = RotationEvent(
        tenant_id="default", event="parked", actor="keyturn", at=now - timedelta(hours=20), detail={"kind": "x"},
        account_id="acct_1", key_id="key_1",
    )  # fmt: skip
    await store.record_event(event, workflow_id="w", event_id="e")
    async with engine.begin() as connection:
        late = update(rotation_events).values(recorded_at=now + timedelta(minutes=31))
        await connection.execute(late)
    await sources.gather(held, now + timedelta(minutes=32))
    assert await topics(engine) == ["rotation.parked"]


async def test_a_thousand_young_rows_do_not_hold_up_what_comes_after_them(
    engine: AsyncEngine, store: JobStore, sources: NoticeSources
) -> None:
    job_id, held, now = await made(store, 1), NoticeStore(engine), datetime.now(UTC)
    row = {"job_id": job_id, "at": now, "event": "claimed", "actor": "x", "detail": {}}
    async with engine.begin() as connection:
        await connection.execute(insert(job_audit), [row] * 2_100)
        await connection.execute(insert(job_audit), row | {"event": "failed"})
    await sources.gather(held, now)
    assert await topics(engine) == ["job.created", "rotation.failed"]


async def test_a_row_that_no_notice_can_hold_is_left_out_and_the_others_go_on(
    engine: AsyncEngine, store: JobStore, sources: NoticeSources
) -> None:
    held = NoticeStore(engine)
    first, _ = await made(store, 1), await made(store, 2)
    async with engine.begin() as connection:
        await connection.execute(
            update(rotation_jobs).where(rotation_jobs.c.job_id == first).values(recorded_owner="no owner at all")
        )
    await sources.gather(held, datetime.now(UTC))
    assert await topics(engine) == ["job.created"]
    async with engine.begin() as connection:
        await connection.execute(update(notices).values(content={"of": "another release"}))
    assert await held.route(to("slack:a")) == 1
    assert await held.route(to("slack:a")) == 0


async def test_the_owner_of_today_hears_of_it(engine: AsyncEngine, store: JobStore) -> None:
    """Whoever owned the key when its job was created, unless an inventory said so."""
    rules = [OwnerRule(Pattern("*"), "platform")]
    sources = NoticeSources(engine, Owners(None, rules))
    await sources.start(datetime.now(UTC))
    await made(store, 1, owner="payments")
    await made(store, 2, owner="payments", recorded_owner="payments")
    await sources.gather(NoticeStore(engine), datetime.now(UTC))
    async with engine.connect() as connection:
        owners = (await connection.execute(select(notices.c.owner).order_by(notices.c.key_id))).scalars().all()
    assert owners == ["platform", "payments"]


async def test_a_waiver_that_a_line_ends_earlier_is_announced_before_that(engine: AsyncEngine, store: JobStore) -> None:
    """To the owner of the one account that it names; and an exempt job is not called overdue."""
    now = datetime.now(UTC)
    line = load_catalogue().current("P-7").model_copy(update={"waiver_days": 30})
    rules = [OwnerRule(Pattern("acct_*"), "payments")]
    sources = NoticeSources(engine, Owners(None, rules), [line])
    await sources.start(now)
    waiver = Waiver(
        waiver_id="waiver_1", tenant_id="default", account="acct_10234", reason="r", granted_by="omar",
        granted_at=now - timedelta(days=28), until=now + timedelta(days=200),
    )  # fmt: skip
    short = waiver.model_copy(update={"waiver_id": "waiver_2", "account": "x", "granted_at": now})
    for one in (waiver, short.model_copy(update={"until": now + timedelta(days=2)})):
        await WaiverStore(engine).add(one)
    job_id = await made(store, 1)
    async with engine.begin() as connection:
        late = update(rotation_jobs).where(rotation_jobs.c.job_id == job_id)
        await connection.execute(late.values(rotate_by=now - timedelta(days=3)))
    await sources.gather(NoticeStore(engine), now)
    async with engine.connect() as connection:
        found = (await connection.execute(select(notices.c.topic, notices.c.owner, notices.c.content))).all()
    assert sorted((topic, owner) for topic, owner, _ in found) == [
        ("job.created", "payments"),
        ("waiver.ends", "payments"),
    ]
    assert next(content for topic, _, content in found if topic == "waiver.ends")["facts"]["line"] == "P-7"


async def test_waived_jobs_and_old_waits_hide_no_others(
    engine: AsyncEngine, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them come first."""
    monkeypatch.setattr("keyturn.notices.dates.PAGE", 2)
    held, now = NoticeStore(engine), datetime.now(UTC)
    sources = NoticeSources(engine, Owners(), load_catalogue())
    await sources.start(now)
    waiver = Waiver(
        waiver_id="waiver_1", tenant_id="default", account="acct_10234", reason="r", granted_by="omar",
        granted_at=now, until=now + timedelta(days=20),
    )  # fmt: skip
    await WaiverStore(engine).add(waiver)
    for number in range(6):
        exempt = number < 5
        job_id = await made(store, number, account_id="acct_10234" if exempt else "acct_9")
        async with engine.begin() as connection:
            late = update(rotation_jobs).where(rotation_jobs.c.job_id == job_id)
            await connection.execute(late.values(rotate_by=now - timedelta(days=9 - number)))
        until = (now + timedelta(hours=200 if exempt else 20)).isoformat()
        event = RotationEvent(
            tenant_id="default", event="approval_requested", actor="luna", at=now + timedelta(seconds=number),
            detail={"until": until}, account_id="acct_1", key_id=f"key_{number}",
        )  # fmt: skip
        await store.record_event(event, workflow_id=f"w-{number}", event_id=f"e-{number}")
    await sources.gather(held, now + timedelta(seconds=20))
    found = await topics(engine)
    assert (found.count("job.overdue"), found.count("approval.expires")) == (1, 1)


async def test_what_waits_for_a_person_is_found_with_its_key_and_again_before_it_expires(
    engine: AsyncEngine, store: JobStore, sources: NoticeSources
) -> None:
    held, now = NoticeStore(engine), datetime.now(UTC)
    for number, hours in enumerate((160, 20, 20)):
        detail = {"until": (now + timedelta(hours=hours)).isoformat(), "approvers": "omar, priya"}
        detail |= {"policy_lines": "P-7@1, CIS-1@2", "rotate_by": NOW.isoformat()}
        event = RotationEvent(
            tenant_id="default", event="approval_requested", actor="luna", at=now, detail=detail,
            account_id="acct_1", key_id=f"key_{number}", owner="payments",
        )  # fmt: skip
        await store.record_event(event, workflow_id=f"w-{number}", event_id=f"e-{number}")
    approved = RotationEvent(tenant_id="default", event="approved", actor="omar", at=now + timedelta(seconds=1))
    await store.record_event(approved, workflow_id="w-2", event_id="e-9")
    for _ in range(2):
        await sources.gather(held, now + timedelta(seconds=2))
    assert await topics(engine) == ["approval.expires"] + 3 * ["approval.waits"]
    async with engine.connect() as connection:
        [again] = (
            await connection.execute(select(notices.c.content).where(notices.c.topic == "approval.expires"))
        ).scalars()
    assert (again["key_id"], again["facts"]["approvers"]) == ("key_1", "omar, priya")
    assert "under P-7@1, CIS-1@2, due 2026-11-27" in sentence(Notice.model_validate(again))


async def test_dates_that_come_and_pass_are_found_once(
    engine: AsyncEngine, store: JobStore, sources: NoticeSources
) -> None:
    """Due soon (not a job that was just announced), overdue, a waiver that ends, a run that has ended."""
    held, now = NoticeStore(engine), datetime.now(UTC)
    jobs = [await made(store, number) for number in range(4)]
    dates = [(2, 9), (-3, 9), (2, 0), (30, 9)]
    async with engine.begin() as connection:
        for job_id, (due, old) in zip(jobs, dates, strict=True):
            values = {"rotate_by": now + timedelta(days=due), "created_at": now - timedelta(days=old)}
            await connection.execute(update(rotation_jobs).where(rotation_jobs.c.job_id == job_id).values(**values))
        run: dict[str, Any] = {"run_id": "run-1", "tenant_id": "default", "task": "decide_rotation", "source": "x.csv"}
        run |= {"source_digest": "d", "policy_lines": ["P-7@1"], "requested_by": "luna", "workflow_id": "w"}
        ended = {"created_at": now, "ended_at": now + timedelta(seconds=1), "ended": "done"}
        await connection.execute(insert(bulk_runs), run | ended | {"figures": {"total": 5, "outcomes": {"waived": 5}}})
    for days in (3, 30):
        waiver = Waiver(
            waiver_id=f"waiver_{days}", tenant_id="default", account="a", reason="r", granted_by="omar",
            granted_at=now - timedelta(days=2), until=now + timedelta(days=days),
        )  # fmt: skip
        await WaiverStore(engine).add(waiver)
    for _ in range(2):
        await sources.gather(held, now + timedelta(seconds=2))
    assert await topics(engine) == 4 * ["job.created"] + ["job.due_soon", "job.overdue", "run.finished", "waiver.ends"]


# -- sending once -----------------------------------------------------------------------------------------------------


def to(*destinations: str, group: str = "g", minutes: float = 0) -> Any:
    due = datetime.now(UTC) + timedelta(minutes=minutes)
    return lambda notice: [Send(one, due, group, notice.severity == "urgent") for one in destinations]


async def test_notices_of_a_group_share_one_message_whoever_groups_them(engine: AsyncEngine) -> None:
    held = NoticeStore(engine)
    for _ in range(2):
        await held.add([sample("job.created", number=number, at=NOW) for number in range(1_200)])
    assert sum(await asyncio.gather(*(held.route(to("slack:a", "smtp:x@y.z")) for _ in range(4)))) > 0
    while await held.route(to("slack:a", "smtp:x@y.z")):
        pass
    await asyncio.gather(*(held.group(datetime.now(UTC)) for _ in range(4)))
    await held.group(datetime.now(UTC))
    found = [await held.message(one) for one in await held.pending(datetime.now(UTC), limit=10, of_each=10)]
    assert sorted(one.destination for one in found) == ["slack:a", "smtp:x@y.z"]
    assert [one.total for one in found] == [1_200, 1_200]
    async with engine.connect() as connection:
        sends = (await connection.execute(select(notice_sends.c.send_id))).all()
    assert len(sends) == 2 * found[0].total


async def test_what_is_not_due_waits(engine: AsyncEngine) -> None:
    held = NoticeStore(engine)
    await held.add([sample("job.created")])
    await held.route(to("slack:a", minutes=15))
    assert await held.group(datetime.now(UTC)) == 0
    assert await held.group(datetime.now(UTC) + timedelta(minutes=16)) == 1


async def test_messages_about_one_key_come_in_their_order_and_others_do_not_wait(engine: AsyncEngine) -> None:
    held, started = NoticeStore(engine), datetime.now(UTC)
    for topic, number, group in (("rotation.began", 1, "a"), ("rotation.done", 1, "b"), ("rotation.done", 2, "c")):
        await held.add([sample(topic, number=number, at=started)])  # type: ignore[arg-type]
        await held.route(to("slack:a", group=group))
        await held.group(datetime.now(UTC))
    first, third = await held.pending(datetime.now(UTC), limit=10, of_each=10)
    async with engine.connect() as connection:
        by_send = select(notice_sends.c.message_id).order_by(notice_sends.c.send_id)
        second = (await connection.execute(by_send)).scalars().all()[1]
    assert [(await held.message(one)).waits_for for one in (first, second, third)] == [None, first, None]
    await held.mark_dead(first, failure="receiver_refused")
    assert (await held.message(second)).waits_for is None
    [dead] = await held.dead_letters(tenant_id="default", limit=10)
    assert (dead["message_id"], dead["destination"], dead["failure"]) == (first, "slack:a", "receiver_refused")
    await held.revive(first)
    assert (await held.message(second)).waits_for == first
    await held.mark_sent(first)
    assert (await held.message(first)).is_sent
    assert await held.pending(datetime.now(UTC), limit=10, of_each=10) == [second, third]
    with pytest.raises(UnknownMessage):
        await held.message("notice_0")


async def test_messages_that_share_keys_never_wait_for_each_other(engine: AsyncEngine) -> None:
    """Two groups with the same two keys in opposite order: one goes first, and then the other."""
    held = NoticeStore(engine)
    kinds: list[tuple[Topic, int]] = [
        ("rotation.failed", 1),
        ("job.created", 2),
        ("job.created", 1),
        ("rotation.failed", 2),
    ]
    await held.add([sample(topic, number=number) for topic, number in kinds])
    due = datetime.now(UTC)
    await held.route(lambda notice: [Send("slack:a", due, notice.severity, notice.severity == "urgent")])
    await held.group(datetime.now(UTC))
    [first] = await held.pending(datetime.now(UTC), limit=10, of_each=10)
    await held.mark_sent(first)
    [second] = await held.pending(datetime.now(UTC), limit=10, of_each=10)
    assert second != first


async def test_a_destination_that_is_down_leaves_room_for_others_and_urgent_ones_go_first(engine: AsyncEngine) -> None:
    """And a delivery that runs is not started at each look, but after a while: it may have been terminated."""
    held, now = NoticeStore(engine), datetime.now(UTC)
    await held.add([sample("job.created", number=number) for number in range(120)])
    await held.route(lambda notice: [Send("webhook", now, notice.event_id, is_urgent=False)])
    await held.add([sample("rotation.failed", number=900), sample("job.overdue", number=901)])
    await held.route(lambda notice: [Send("slack:a", now, notice.event_id, notice.severity == "urgent")])
    await held.group(now)
    await held.group(now)
    found = [await held.message(one) for one in await held.pending(now, limit=60, of_each=50)]
    assert [one.destination for one in found].count("slack:a") == 2
    assert (found[0].destination, found[0].notices[0].severity) == ("slack:a", "urgent")
    for one in found:
        await held.mark_started(one.message_id, now)
    later = [await held.message(one) for one in await held.pending(now, limit=60, of_each=50)]
    assert not {one.message_id for one in found} & {one.message_id for one in later}
    again = await held.pending(now + timedelta(minutes=11), limit=500, of_each=500)
    assert {one.message_id for one in found} <= set(again)


async def test_old_notices_are_forgotten_unless_they_still_wait(engine: AsyncEngine) -> None:
    held = NoticeStore(engine)
    await held.add([sample("job.created", number=1), sample("job.overdue", number=2)])
    await held.route(lambda notice: to("slack:a")(notice) if notice.topic == "job.created" else [])
    retention, later = RetentionStore(engine), datetime.now(UTC) + timedelta(days=1)
    assert await retention.count({"notices": later}) == await retention.delete({"notices": later}) == {"notices": 1}
    await held.group(datetime.now(UTC))
    [waits] = await held.pending(datetime.now(UTC), limit=10, of_each=10)
    await held.mark_sent(waits)
    assert await retention.delete({"notices": later}) == {"notices": 1}
    assert await topics(engine) == []
