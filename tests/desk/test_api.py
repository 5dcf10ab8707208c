"""The desk's JSON, as another program speaks it."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.engine import URL
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

import keyturn.desk.desk as desk_module
from keyturn.application.stories import story_of
from keyturn.desk.tables import desk_requests
from keyturn.drafts.errors import UnknownDraft
from keyturn.drafts.tables import drafts
from keyturn.errors import JobStoreUnavailable
from keyturn.lab.stack.loopback import loopback_client
from tests.support.desks import Place, asking, events_of, key, place, question, text_of
from tests.support.simulated import SimulatorControl


@pytest.fixture
async def here(temporal: Client, sqlite: URL, simulator: SimulatorControl) -> AsyncIterator[Place]:
    async with place(temporal, sqlite, simulator) as made:
        yield made


@pytest.fixture
async def with_approvals(temporal: Client, sqlite: URL, simulator: SimulatorControl) -> AsyncIterator[Place]:
    async with place(temporal, sqlite, simulator, approvers=("omar", "luna")) as made:
        yield made


def refusal_of(response: httpx.Response) -> tuple[int, str]:
    """Status and name of a refusal, which is a problem detail and repeats nothing that was sent."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["title"]
    assert problem["detail"]
    return response.status_code, problem["kind"]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_a_question_is_answered_and_its_job_has_its_story(
    temporal: Client, simulator: SimulatorControl, request: pytest.FixtureRequest, database: str
) -> None:
    """From the question to the job's audit trail, on both databases."""
    async with (
        place(temporal, request.getfixturevalue(database), simulator) as here,
        here.open() as url,
        asking("luna", url) as luna,
    ):
        answered = await luna.post("/api/v1/rotations", json=question(), headers=key())
        assert (answered.status_code, answered.json()["status"]) == (202, "job_created")
        assert answered.json()["policy_lines"] == ["P-7@1"]
        found = await luna.get(answered.headers["location"])
        assert found.json() == {name: value for name, value in answered.json().items() if name != "attached"}
        jobs = (await luna.get("/api/v1/jobs")).json()["jobs"]
        assert [job["job_id"] for job in jobs] == [answered.json()["job_id"]]
        await here.desk._leases.cancel(jobs[0]["job_id"], tenant_id=here.tenant, actor="omar", reason="wrong week")
        now = (await luna.get(answered.headers["location"])).json()
        assert (answered.json()["job_state"], now["job_state"]) == ("open", "cancelled"), "and not what history has"
        again = (await luna.post("/api/v1/rotations", json=question() | {"again": True}, headers=key())).json()
        assert (again["job_state"], again["job_id"] == now["job_id"]) == ("open", False)
        jobs = (await luna.get("/api/v1/jobs")).json()["jobs"]
        _, steps = await story_of(temporal, answered.json()["workflow_id"])
        exchange = next(step["exchange"] for step in steps if step["step"] == "decided")
        page = unescape((await luna.get(f"/rotations/{answered.json()['workflow_id']}")).text)
        said = [line for part in exchange.values() for line in str(part).splitlines() if len(line) > 40]
        assert said
        assert not [line for line in said if line in page], "what a model was sent and said is on no page"
        story = (await luna.get(f"/api/v1/jobs/{jobs[0]['job_id']}")).json()
        assert story["audit"][0]["event"] == "created"
        listed = (await luna.get("/api/v1/rotations")).json()["rotations"]
        assert answered.json()["workflow_id"] in {row["workflow_id"] for row in listed}
        assert "P-7" in {line["id"] for line in (await luna.get("/api/v1/policy-lines")).json()["policy_lines"]}
        assert (await luna.get("/api/v1/costs")).json() == {"costs": []}, "this worker keeps no ledger"


async def test_a_request_that_cannot_be_asked_is_refused_by_the_names_of_its_fields(here: Place) -> None:
    """The command line calls the same fault `--observed`; a caller that sends JSON has no options."""
    async with here.open() as url, asking("luna", url) as luna:
        refused = await luna.post(
            "/api/v1/rotations", json=question() | {"observed_at": "2150-01-01T00:00:00Z"}, headers=key()
        )
    assert refusal_of(refused) == (422, "invalid_request")
    assert refused.json()["detail"] == "observed_at: lies in the future: evidence is what was seen"


async def test_a_request_that_is_sent_again_is_carried_out_once(here: Place) -> None:
    """The same key and request are answered alike; another request, no key, or one under way are refused by name."""
    async with here.open() as url, asking("luna", url) as luna, asking("omar", url) as omar:
        once, asked = key(), question()
        first, second = [await luna.post("/api/v1/rotations", json=asked, headers=once) for _ in range(2)]
        assert first.json() == second.json()
        assert first.headers["location"] == second.headers["location"]
        other = await luna.post("/api/v1/rotations", json=question(), headers=once)
        assert refusal_of(other) == (422, "idempotency_key_reused")
        for missing in ({}, {"idempotency-key": ""}, {"idempotency-key": "k" * 300}):
            without = await luna.post("/api/v1/rotations", json=asked, headers=missing)
            assert refusal_of(without) == (400, "idempotency_key_missing")
        assert refusal_of(await omar.post("/api/v1/rotations", json=asked, headers=once)) == (403, "role_missing")
        await here.simulator.fail("slow", seconds=2)
        slow, again = question(), key()
        under_way = asyncio.create_task(luna.post("/api/v1/rotations", json=slow, headers=again))
        while not await here.simulator.requests() or (await here.simulator.requests())[-1]["fault"] != "slow":
            await asyncio.sleep(0.02)
        beside = await luna.post("/api/v1/rotations", json=slow, headers=again)
        assert refusal_of(beside) == (409, "still_under_way")
        assert beside.headers["retry-after"] == "1"
        assert (await under_way).status_code == 202
        assert (await luna.post("/api/v1/rotations", json=slow, headers=again)).json() == (await under_way).json()
        drafts = [
            await luna.post("/api/v1/drafts", json={"workflow_id": first.json()["workflow_id"]}, headers=key_of(1))
            for _ in range(2)
        ]
        assert len({draft.json()["draft_id"] for draft in drafts}) == 1
    async with here.engine.connect() as connection:
        kept = str((await connection.execute(text("SELECT * FROM desk_requests"))).all())
    assert asked["account_id"] not in kept, "an answer is kept encrypted"


async def test_a_key_is_kept_for_a_day_and_what_a_dead_desk_left_is_done_by_the_next(here: Place) -> None:
    """Both times are the table's own, so they are turned back there."""

    async def began(**ago: float) -> None:
        async with here.engine.begin() as connection:
            earlier = datetime.now(UTC) - timedelta(**ago)
            await connection.execute(update(desk_requests).values(began_at=earlier))

    async def left_behind() -> None:
        async with here.engine.begin() as connection:
            await connection.execute(update(desk_requests).values(status=None, answer=None))

    async with here.open() as url, asking("luna", url) as luna:
        once, asked = key(), question()
        first = await luna.post("/api/v1/rotations", json=asked, headers=once)
        await left_behind()
        assert refusal_of(await luna.post("/api/v1/rotations", json=asked, headers=once)) == (409, "still_under_way")
        await began(seconds=91)
        taken_over = await luna.post("/api/v1/rotations", json=asked, headers=once)
        assert taken_over.json() == first.json() | {"attached": True}, "the same Idempotency-Key finds what was started"
        await began(hours=23)
        other = question()
        assert refusal_of(await luna.post("/api/v1/rotations", json=other, headers=once)) == (
            422,
            "idempotency_key_reused",
        )
        await began(hours=25)
        assert (await luna.post("/api/v1/rotations", json=other, headers=once)).status_code == 202


def key_of(number: int) -> dict[str, str]:
    return {"idempotency-key": str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))}


async def test_who_is_late_is_told_what_is_waited_for_and_it_completes_by_itself(here: Place) -> None:
    """The deadline holds while the provider hangs."""
    await here.simulator.fail("slow", seconds=3)
    async with here.open(KEYTURN_DESK_WAIT_SECONDS=0.5) as url, asking("luna", url) as luna:
        began = asyncio.get_running_loop().time()
        answered = await luna.post("/api/v1/rotations", json=question(), headers=key())
        assert asyncio.get_running_loop().time() - began < 2
        assert answered.json()["status"] == "running"
        async with asyncio.timeout(20):
            while (now := (await luna.get(answered.headers["location"])).json())["status"] == "running":
                await asyncio.sleep(0.05)
        assert now["status"] == "job_created"


async def test_a_decision_is_approved_by_whoever_is_signed_in_and_not_by_the_asker(with_approvals: Place) -> None:
    """The approver's name is the signed-in one; the body cannot say another."""
    async with (
        with_approvals.open(KEYTURN_DESK_ROLES="luna=asker+approver; omar=approver; vera=asker") as url,
        asking("luna", url) as luna,
        asking("omar", url) as omar,
        asking("vera", url) as vera,
    ):
        waits = (await luna.post("/api/v1/rotations", json=question(), headers=key())).json()
        assert (waits["status"], waits["approvers"]) == ("awaiting_approval", ["luna", "omar"])
        listed = (await omar.get("/api/v1/rotations", params={"state": "awaiting_approval"})).json()["rotations"]
        assert [row["workflow_id"] for row in listed] == [waits["workflow_id"]]
        path, digest = f"/api/v1/rotations/{waits['workflow_id']}", {"digest": waits["digest"]}
        assert refusal_of(await vera.post(f"{path}/approve", json=digest)) == (403, "role_missing")
        own = await luna.post(f"{path}/approve", json=digest)
        assert refusal_of(own) == (409, "answer_refused")
        assert "own_request" in own.json()["detail"]
        assert refusal_of(await omar.post(f"{path}/approve", json=digest | {"approver": "vera"})) == (422, "invalid")
        assert refusal_of(await omar.post(f"{path}/approve", json={"digest": "v1:other"})) == (422, "invalid")
        stale = {"digest": "v1:" + "0" * 64}
        assert refusal_of(await omar.post(f"{path}/approve", json=stale)) == (409, "answer_refused")
        assert (await omar.post(f"{path}/approve", json=digest)).status_code == 204
        async with asyncio.timeout(20):
            while (now := (await luna.get(path)).json())["status"] != "job_created":
                await asyncio.sleep(0.05)
        assert now["approved_by"] == "omar"
        denied = (await vera.post("/api/v1/rotations", json=question(), headers=key())).json()
        path, word = f"/api/v1/rotations/{denied['workflow_id']}", {"digest": denied["digest"], "reason": "frozen"}
        assert (await luna.post(f"{path}/deny", json=word)).status_code == 204
        async with asyncio.timeout(20):
            while (await luna.get(path)).json()["status"] != "rejected":
                await asyncio.sleep(0.05)
    drafted = await with_approvals.desk.draft_request("vera", {"workflow_id": denied["workflow_id"], "trace_id": "t"})
    assert drafted.decision is None, "what was denied is not shown as decided"


async def test_a_parked_rotation_is_resumed_or_abandoned_by_an_operator(here: Place) -> None:
    await here.simulator.fail("quota", times=None)
    async with here.open() as url, asking("luna", url) as luna, asking("omar", url) as omar:
        parked = [(await luna.post("/api/v1/rotations", json=question(), headers=key())).json() for _ in range(2)]
        assert {one["status"] for one in parked} == {"parked"}
        first, second = (f"/api/v1/rotations/{one['workflow_id']}" for one in parked)
        assert refusal_of(await luna.post(f"{first}/resume")) == (403, "role_missing")
        assert (await omar.post(f"{second}/abandon", json={"reason": "closed"})).status_code == 204
        await here.simulator.reset()
        assert (await omar.post(f"{first}/resume")).status_code == 204
        async with asyncio.timeout(20):
            while (await luna.get(first)).json()["status"] != "job_created":
                await asyncio.sleep(0.05)
        assert (await luna.get(second)).json()["status"] == "failed"
        assert refusal_of(await omar.post(f"{first}/resume")) == (409, "answer_refused")


async def test_a_draft_is_shown_as_it_is_written_and_a_reader_comes_back_without_a_gap(here: Place) -> None:
    """By the id of the last event: nothing is lost, nothing is repeated; the draft reports the rotation's decision."""
    async with here.open() as url, asking("luna", url) as luna:
        asked = question()
        rotation = (await luna.post("/api/v1/rotations", json=asked, headers=key())).json()
        begun = await luna.post("/api/v1/drafts", json={"workflow_id": rotation["workflow_id"]}, headers=key())
        assert begun.status_code == 202, begun.text
        path = begun.headers["location"]
        whole = await events_of(luna, f"{path}/events")
        draft = (await luna.get(path)).json()
        assert (draft["state"], draft["approved"]) == ("completed", True)
        assert asked["account_id"] in draft["text"]
        assert "may be rotated under P-7" in draft["text"]
        assert text_of(whole) == draft["text"]
        assert whole[-1][1:] == ("end", {"state": "completed", "approved": True, "reason": None, "explanation": ""})
        assert len(whole) > 4
        for place_then, name, _ in whole:
            rest = await events_of(luna, f"{path}/events", **{"last-event-id": place_then})
            if name == "text":
                seen = whole[: [one[0] for one in whole].index(place_then) + 1]
                assert text_of(seen) + text_of(rest) == draft["text"]
        for nonsense in ("x", "9.9", "0.-1", "1.99999", "1.1.1", "\xb2.\xb2"):
            again = await events_of(luna, f"{path}/events", **{"last-event-id": nonsense})
            assert text_of(again) in {draft["text"], ""}
        async with here.engine.begin() as connection:  # a week later; Temporal keeps its history for longer
            await connection.execute(delete(drafts))
        assert refusal_of(await luna.get(path)) == (404, "unknown_draft")


async def test_two_hundred_readers_lose_and_repeat_nothing(here: Place) -> None:
    """At once, of one draft, each coming and going in the middle."""
    await here.simulator.pace(0.01)
    async with here.open() as url, asking("luna", url) as luna:
        body = {"account_id": "acct_1", "question": "May it?", "policy_lines": ["P-7"]}
        path = (await luna.post("/api/v1/drafts", json=body, headers=key())).headers["location"]
        limits = httpx.Limits(max_connections=250)
        async with loopback_client(url, headers=luna.headers, limits=limits, timeout=60) as readers:
            seen = await asyncio.gather(*(events_of(readers, f"{path}/events") for _ in range(200)))
        draft = (await luna.get(path)).json()
        assert draft["state"] == "completed"
        assert {text_of(events) for events in seen} == {draft["text"]}
        assert all([name for _, name, _ in events].count("end") == 1 for events in seen)
        assert not any(name == "reset" for events in seen for _, name, _ in events)


async def test_readers_wait_while_the_database_or_temporal_is_away(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that has started is not broken off by it, and simultaneous callers cost one look."""
    looks, broken = 0, asyncio.Event()
    find = here.desk.find_draft
    faults = [JobStoreUnavailable("away"), RPCError("away", RPCStatusCode.UNAVAILABLE, b"")]

    async def away(draft_id: str) -> Any:
        nonlocal looks
        looks += 1
        if looks > 1 and faults:
            if len(faults) == 1:
                broken.set()
            raise faults.pop()
        return await find(draft_id)

    monkeypatch.setattr(desk_module, "LOOK_SECONDS", 0.01)
    body = {"account_id": "acct_1", "question": "May it?", "policy_lines": ["P-7"]}
    async with here.served() as url, asking("luna", url) as luna, asyncio.timeout(60):
        path = (await luna.post("/api/v1/drafts", json=body, headers=key())).headers["location"]
        monkeypatch.setattr(here.desk, "find_draft", away)
        reading = asyncio.gather(*(events_of(luna, f"{path}/events") for _ in range(5)))
        await broken.wait()
        async with here.working():
            seen = await reading
        draft = (await luna.get(path)).json()
    assert draft["state"] == "completed"
    assert {text_of(events) for events in seen} == {draft["text"]}
    before = looks
    unknown = await asyncio.gather(*(here.desk.share_draft("none") for _ in range(9)), return_exceptions=True)
    assert {type(one) for one in unknown} == {UnknownDraft}
    assert looks == before + 1


async def test_a_draft_is_stopped_and_one_that_no_worker_begins_is_reported(here: Place) -> None:
    """A reader gets the end either way."""
    body = {"account_id": "acct_1", "question": "May it?", "policy_lines": ["P-7"]}
    async with here.served() as url, asking("luna", url) as luna:
        path = (await luna.post("/api/v1/drafts", json=body, headers=key())).headers["location"]
        assert (await luna.get(path)).json()["state"] == "started"
        assert (await luna.post(f"{path}/stop")).status_code == 204
        async with here.working():
            assert [name for _, name, _ in await events_of(luna, f"{path}/events")] == ["end"]
            await here.simulator.pace(0.5)
            path = (await luna.post("/api/v1/drafts", json=body, headers=key())).headers["location"]
            reading = asyncio.create_task(events_of(luna, f"{path}/events"))
            while (await luna.get(path)).json()["state"] != "streaming":
                await asyncio.sleep(0.02)
            assert (await luna.post(f"{path}/stop")).status_code == 204
            *_, (_, name, data) = await reading
            assert (name, data["state"]) == ("end", "cancelled")
            assert (await luna.post(f"{path}/stop")).status_code == 204, "it has ended: nothing happens"


async def test_what_is_not_there_or_another_tenants_is_not_found(here: Place, temporal: Client, sqlite: URL) -> None:
    async with here.open() as url, asking("luna", url) as luna, asking("omar", url) as omar:
        mine = (await luna.post("/api/v1/rotations", json=question(), headers=key())).json()
        body = {"workflow_id": mine["workflow_id"]}
        draft = (await luna.post("/api/v1/drafts", json=body, headers=key())).headers["location"]
        await events_of(luna, f"{draft}/events")
        async with (
            place(temporal, sqlite, here.simulator) as other,
            other.served() as foreign,
            asking("omar", foreign) as they,
        ):
            for path in (
                f"/api/v1/rotations/{mine['workflow_id']}",
                draft,
                f"{draft}/events",
                f"/api/v1/jobs/{mine['job_id']}",
            ):
                status, _ = refusal_of(await they.get(path))
                assert status == 404, path
            assert refusal_of(await they.post(f"/api/v1/rotations/{mine['workflow_id']}/resume"))[0] == 404
        for path in ("/api/v1/rotations/none", "/api/v1/drafts/none", "/api/v1/jobs/none", "/api/v1/none"):
            assert refusal_of(await omar.get(path))[0] == 404
        assert refusal_of(await luna.post("/api/v1/drafts", json={"workflow_id": "none"}, headers=key()))[0] == 404
        assert refusal_of(await luna.post("/api/v1/drafts", json={}, headers=key())) == (422, "invalid")


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"policy_lines": ["P-99"]}, 422),
        ({"policy_lines": []}, 422),
        ({"account_id": "=cmd()"}, 422),
        ({"question": "x" * 5_000}, 422),
        ({"question": ""}, 422),
        ({"observed_at": "2046-01-01T00:00:00Z"}, 422),
        ({"observed_at": "yesterday"}, 422),
        ({"unknown": "field"}, 422),
        ({"age_days": -1}, 422),
    ],
)
async def test_what_cannot_be_asked_is_said_without_repeating_it(
    here: Place, changed: dict[str, Any], status: int
) -> None:
    async with here.served() as url, asking("luna", url) as luna:
        refused = await luna.post("/api/v1/rotations", json=question(**changed), headers=key())
        assert refusal_of(refused)[0] == status
        assert "=cmd()" not in refused.text
        assert "xxxxx" not in refused.text
        broken = await luna.post(
            "/api/v1/rotations", content=b"{", headers=key() | {"content-type": "application/json"}
        )
        assert refusal_of(broken)[0] == 400
