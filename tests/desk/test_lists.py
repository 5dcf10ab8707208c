"""What the desk lists and counts: by name, filtered, a page at a time; and what is decided together."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.application.rotation_lists import RotationFilter, count_waiting
from keyturn.bulk.store import BulkStore, Run
from keyturn.calls import CallRecord
from keyturn.contracts import PolicyRef
from keyturn.desk.lists import Lists, _stored_facts
from keyturn.execution.mapping import KeyMap, KeyMapping
from keyturn.jobs.tables import rotation_jobs
from keyturn.ledger.store import LedgerStore
from keyturn.owners import Owners
from tests.support.desks import Place, asking, key, place, question
from tests.support.simulated import SimulatorControl


@pytest.fixture
async def here(temporal: Client, sqlite: URL, simulator: SimulatorControl) -> AsyncIterator[Place]:
    async with place(temporal, sqlite, simulator) as made:
        yield made


@pytest.fixture
async def with_approvals(temporal: Client, sqlite: URL, simulator: SimulatorControl) -> AsyncIterator[Place]:
    async with place(temporal, sqlite, simulator, approvers=("omar", "luna")) as made:
        yield made


async def asked(luna: httpx.AsyncClient, **changed: Any) -> dict[str, Any]:
    answered = await luna.post("/api/v1/rotations", json=question(**changed), headers=key())
    body: dict[str, Any] = answered.json()
    return body


def text_of_page(response: httpx.Response) -> str:
    """What a reader sees of a page, in one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", response.text)).split())


async def test_rotations_are_listed_by_name_with_state_due_date_and_job(here: Place) -> None:
    """Never a bare pseudonym to somebody who may read the name, and not the state of a workflow but of the key."""
    async with here.open() as url, asking("luna", url) as luna:
        due = await asked(luna, account_id="acct_of_billing", key_id="key_7f3a")
        fresh = await asked(luna, account_id="acct_of_sales", key_id="key_22", stale=False)
        listed = (await luna.get("/api/v1/rotations")).json()["rotations"]
        found = {row["workflow_id"]: row for row in listed}
        first, second = found[due["workflow_id"]], found[fresh["workflow_id"]]
        assert (first["account_id"], first["key_id"], first["requested_by"]) == ("acct_of_billing", "key_7f3a", "luna")
        assert (first["state"], first["job_id"], first["job_state"]) == ("job_created", due["job_id"], "open")
        assert datetime.fromisoformat(first["rotate_by"]) > datetime.now(UTC)
        assert (second["state"], second["job_id"], second["rotate_by"]) == ("not_eligible", None, None)
        page = text_of_page(await luna.get("/rotations"))
        assert "key_7f3a of acct_of_billing job created P-7@1 in 29 days luna" in page
        overview = text_of_page(await luna.get("/"))
        assert "0 overdue 1 open job 0 to approve 0 parked 0 in progress" in overview
        assert "P-7@1 1 0" in overview


async def test_a_rotations_names_are_encrypted_where_the_list_finds_them(here: Place) -> None:
    """The memo is as unreadable at the server as the history."""
    async with here.open() as url, asking("luna", url) as luna:
        one = await asked(luna, account_id="acct_of_billing", key_id="key_7f3a")
        description = await here.client.get_workflow_handle(one["workflow_id"]).describe()
        (payload,) = description.raw_info.memo.fields.values()
        assert payload.metadata["encoding"] == b"binary/encrypted"
        assert b"billing" not in payload.data


FILTERS: list[tuple[dict[str, Any], set[str]]] = [
    ({"state": "job_created"}, {"key_1"}),
    ({"state": ["not_eligible", "job_created"]}, {"key_1", "key_2"}),
    ({"state": "rejected"}, {"key_3"}),
    ({"account_id": "acct_a"}, {"key_1", "key_2"}),
    ({"account_id": "acct_a", "key_id": "key_2"}, {"key_2"}),
    ({"account_id": "acct_none"}, set()),
    ({"line": "P-7@1"}, {"key_1", "key_2", "key_3"}),
    ({"line": "P-7@2"}, set()),
    ({"older_than_days": "1"}, set()),
    ({"older_than_days": "0", "state": ""}, {"key_1", "key_2", "key_3"}),
]


async def test_each_filter_finds_what_it_names(here: Place) -> None:
    """For programs and on the page alike; a field of the form that was left empty is no filter."""
    async with here.open() as url, asking("luna", url) as luna:
        await asked(luna, account_id="acct_a", key_id="key_1")
        await asked(luna, account_id="acct_a", key_id="key_2", stale=False)
        await here.simulator.fail("wrong_window", times=2)
        await asked(luna, account_id="acct_b", key_id="key_3")
        for filters, keys in FILTERS:
            rows = (await luna.get("/api/v1/rotations", params=filters)).json()["rotations"]
            assert {row["key_id"] for row in rows} == keys, filters
            page = text_of_page(await luna.get("/rotations", params=filters))
            assert {name for name in ("key_1", "key_2", "key_3") if f"{name} of" in page} == keys, filters


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/rotations?stat=open", "stat"),
        ("/rotations?state=done", "state"),
        ("/rotations?key_id=key_1", "account"),
        ("/rotations?account_id=a%27b", "account_id: may hold letters"),
        ("/rotations?line=a%27b", "quotation marks"),
        ("/rotations?after=nonsense", "first page"),
        ("/rotations?after=bm9uc2Vuc2U=", "first page"),
        ("/jobs?team=luna", "team"),
        ("/jobs?after=bm9uc2Vuc2U=", "first page"),
        ("/jobs?after=WyIxIiwgMV0=", "first page"),
        (
            "/jobs?after=WyIyMDI2LTExLTAxVDAwOjAwOjAwKzAwOjAwIiwgImFcdTAwMDBiIl0=",
            "first page",
        ),  # a zero character, which PostgreSQL cannot take
        ("/calls?after=%FF", "first page"),
        ("/calls?limit=5", "limit"),
    ],
)
async def test_a_filter_that_is_not_there_is_refused_by_name(here: Place, path: str, problem: str) -> None:
    """A list that ignored it would show what nobody asked for."""
    async with here.served() as url, asking("luna", url) as luna:
        answered = await luna.get(f"/api/v1{path}")
        assert (answered.status_code, problem in answered.json()["detail"]) == (422, True), answered.text
        page = await luna.get(path)
        assert (page.status_code, problem in page.text) == (422, True)


async def test_a_list_goes_on_page_by_page_without_repeating_or_missing_any(here: Place) -> None:
    """Of rotations and of jobs, by date and by age; the page links to the next one and keeps its filters."""
    here.desk.lists = Lists(here.client, here.engine, tenant=here.tenant, owners=Owners(), page_size=2)
    async with here.open() as url, asking("luna", url) as luna:
        made = {(await asked(luna, key_id=f"key_{number}"))["job_id"] for number in range(5)}
        for path, name in (
            ("/rotations?line=P-7%401", "rotations"),
            ("/jobs?order_by=due", "jobs"),
            ("/jobs?", "jobs"),
        ):
            found: list[str] = []
            address, pages = f"/api/v1{path}", 0
            while True:
                body = (await luna.get(address)).json()
                found += [row["job_id"] for row in body[name]]
                pages += 1
                if body["after"] is None:
                    break
                address = f"/api/v1{path}&after={body['after']}"
                assert pages < 9
            assert (sorted(found), pages >= 3) == (sorted(made), True)
        page = await luna.get("/jobs?line=P-7&order_by=due")
        assert "2 shown, and there are more." in text_of_page(page)
        (following,) = re.findall(r'rel="next" href="([^"]+)"', page.text)
        assert "line=P-7" in following
        assert "2 shown" in text_of_page(await luna.get(unescape(following)))


async def test_runs_are_listed_page_by_page_with_what_they_are_at(here: Place) -> None:
    """In the words of `keyturn runs`, on the page and as JSON; one that Temporal does not know has failed."""
    store = BulkStore(here.engine)
    for number in range(5):
        name = f"run-{number}"
        await store.open(
            Run(
                name,
                here.tenant,
                "decide_rotation",
                "/estate/keys.csv",
                "sha256:ab",
                (),
                None,
                "luna",
                "rule",
                None,
                f"bulk:{here.tenant}:{name}",
                again=False,
                loaded=False,
                asks=0,
            )
        )
    for name, ended in (("run-0", "done"), ("run-1", "cancelled")):
        await store.close_run(name, ended)
    here.desk.lists = Lists(here.client, here.engine, tenant=here.tenant, owners=Owners(), page_size=2)
    async with here.open() as url, asking("luna", url) as luna:
        found, after = [], None
        while True:
            page = (await luna.get("/api/v1/runs", params={"after": after} if after else {})).json()
            found += [(row["run_id"], row["state"], row["progress"]["total"]) for row in page["runs"]]
            after = page["after"]
            if after is None:
                break
        states = {"run-0": "done", "run-1": "cancelled", "run-2": "failed", "run-3": "failed", "run-4": "failed"}
        assert found == [(f"run-{number}", states[f"run-{number}"], 0) for number in (4, 3, 2, 1, 0)]
        first = await luna.get("/runs")
        assert "run-4 by luna failed" in text_of_page(first)
        [following] = re.findall(r'rel="next" href="([^"]+)"', first.text)
        assert "run-2 by luna" in text_of_page(await luna.get(unescape(following)))
        assert (await luna.get("/api/v1/runs?after=nonsense")).status_code == 422
        assert (await luna.get("/api/v1/runs?state=done")).status_code == 422, "no such filter"


async def run_with_items(here: Place, run_id: str, items: list[dict[str, Any]]) -> None:
    """A run that ended, with these items of its inventory."""
    store, whose = BulkStore(here.engine), f"bulk:{here.tenant}:{run_id}"
    lines = (PolicyRef(id="P-7", version=1),)
    head = (run_id, here.tenant, "decide_rotation", "/estate/keys.csv", "sha256:ab", lines)
    run = Run(*head, None, "luna", "rule_and_model", None, whose, again=False, loaded=False, asks=0)
    await store.open(run)
    facts = {"key_id": "k", "age_days": 100, "observed_at": "2026-11-27T09:00:00Z"}
    columns = ("ask", "outcome", "reason", "explanation", "workflow_id", "job_id", "decided_by", "model")
    empty: dict[str, Any] = dict.fromkeys(columns) | {"run_id": run_id, "account_id": "acct_1", "facts": facts}
    rows = [empty | {"ordinal": n, "line": n + 1, "key_id": f"key_{n}"} | item for n, item in enumerate(items, 1)]
    await store.add(rows)
    await store.close_run(run_id, "done")


async def test_a_run_is_shown_with_its_items_by_outcome_and_links_to_what_became_of_each(here: Place) -> None:
    """On the page and as JSON, page by page; and of this tenant alone."""
    due = {"outcome": "job_created", "ask": 1, "workflow_id": "rotate:v2:x", "job_id": "job_1", "decided_by": "model"}
    due |= {"model": "gpt-x"}
    quiet = {"outcome": "nothing_due", "reason": "inside_every_window", "decided_by": "rule"}
    await run_with_items(
        here, "run-a", [due, quiet, quiet, quiet, {"outcome": "bad_row", "explanation": "age_days: no"}]
    )
    here.desk.lists = Lists(here.client, here.engine, tenant=here.tenant, owners=Owners(), page_size=2)
    async with here.open() as url, asking("luna", url) as luna:
        page = await luna.get("/runs/run-a")
        text = text_of_page(page)
        assert "3 nothing due" in text
        assert "1 job created" in text
        assert "key_1 of acct_1" in text
        assert {"/rotations/rotate:v2:x", "/jobs/job_1", "/calls?trace_id=run-a-1"} <= {
            unescape(link) for link in re.findall(r'href="([^"]+)"', page.text)
        }
        found, after = [], None
        while True:
            asked_for = {"outcome": "nothing_due"} | ({} if after is None else {"after": after})
            answered = (await luna.get("/api/v1/runs/run-a/items", params=asked_for)).json()
            found += [(one["key_id"], one["reason"], one["age_days"], one["trace_id"]) for one in answered["items"]]
            after = answered["after"]
            if after is None:
                break
        assert found == [(f"key_{number}", "inside_every_window", 100, None) for number in (2, 3, 4)]
        assert (await luna.get("/api/v1/runs/run-a")).json()["progress"]["outcomes"]["job_created"] == 1
        assert "age_days: no" in text_of_page(await luna.get("/runs/run-a?outcome=bad_row"))
        for path in ("/runs/run-b", "/api/v1/runs/run-b", "/api/v1/runs/run-b/items"):
            assert (await luna.get(path)).status_code == 404
        for query in ("after=x", "colour=red"):
            assert (await luna.get(f"/api/v1/runs/run-a/items?{query}")).status_code == 422
        assert await here.desk.lists.run_of("run-a-1", account_id="acct_1", key_id="key_1") == "run-a"
        # A trace is the asker's own text: one of a run that did not ask about this key leads nowhere.
        for trace, key in (("run-a-1", "key_9"), ("run-a-9", "key_1"), ("run-b-1", "key_1"), ("run-a-x", "key_1")):
            assert await here.desk.lists.run_of(trace, account_id="acct_1", key_id=key) is None
        here.desk.lists = Lists(here.client, here.engine, tenant="another", owners=Owners())
        assert (await luna.get("/api/v1/runs/run-a/items")).status_code == 404


async def test_the_model_calls_of_a_rotation_are_found_by_its_trace(here: Place) -> None:
    async with here.open() as url, asking("luna", url) as luna:
        one, other = await asked(luna, key_id="key_1"), await asked(luna, key_id="key_2")
        page = await luna.get(f"/rotations/{one['workflow_id']}")
        [link] = [unescape(link) for link in re.findall(r'href="(/calls\?[^"]+)"', page.text)]
        trace = link.partition("=")[2]
        fields: dict[str, Any] = {
            "task": "decide_rotation",
            "provider": "openai",
            "model": "m",
            "prompt_version": "p@1",
        }
        fields |= {"attempt": 1, "status": "ok", "latency_ms": 1.0, "called_at": datetime.now(UTC), "user_id": "luna"}
        for number, of in enumerate((trace, "another")):
            record = CallRecord(trace_id=of, tenant_id=here.tenant, **fields)
            await LedgerStore(here.engine).write([(str(number) * 32, record)])
        calls = (await luna.get(link.replace("/calls", "/api/v1/calls"))).json()["calls"]
        assert [call["trace_id"] for call in calls] == [trace]
        assert "decide rotation" in text_of_page(await luna.get(link))
        of_key = [unescape(link) for link in re.findall(r'href="(/rotations\?[^"]+)"', page.text)]
        listed = text_of_page(await luna.get(of_key[0]))
        assert "key_1 of" in listed
        assert "key_2 of" not in listed
        assert other["workflow_id"] != one["workflow_id"]


async def test_jobs_are_sorted_by_date_and_the_overdue_are_counted(here: Place) -> None:
    """By how many days, on the list, in the JSON and on the overview."""
    async with here.open() as url, asking("luna", url) as luna:
        jobs = [(await asked(luna, key_id=f"key_{number}"))["job_id"] for number in range(3)]
        async with here.engine.begin() as connection:
            for job_id, days in zip(jobs, (5, -12, -3), strict=True):
                late = update(rotation_jobs).where(rotation_jobs.c.job_id == job_id)
                await connection.execute(late.values(rotate_by=datetime.now(UTC) + timedelta(days=days, hours=1)))
        rows = (await luna.get("/api/v1/jobs", params={"order_by": "due"})).json()["jobs"]
        assert [row["job_id"] for row in rows] == [jobs[1], jobs[2], jobs[0]]
        assert [row["overdue_by_days"] for row in rows] == [11, 2, None]
        late_rows = (await luna.get("/api/v1/jobs", params={"overdue": True, "line": "P-7"})).json()["jobs"]
        assert {row["job_id"] for row in late_rows} == {jobs[1], jobs[2]}
        assert (await luna.get("/api/v1/jobs", params={"line": "P"})).json()["jobs"] == []
        assert "key_1 of" in (page := text_of_page(await luna.get("/jobs?overdue=true")))
        assert "overdue by 11 days" in page
        overview = text_of_page(await luna.get("/"))
        assert "2 overdue 3 open jobs" in overview
        assert "P-7@1 3 2" in overview


async def test_lists_name_the_owner_of_each_key(here: Place) -> None:
    """By the key map; a key that no table names has none. By owner they are filtered, and counted."""
    tables = [KeyMapping(account="svc-pay", owner="payments"), KeyMapping(account="svc-x", key_id="key_9", owner="x")]
    here.desk.owners = Owners(KeyMap(tables))
    here.desk.lists = Lists(here.client, here.engine, tenant=here.tenant, owners=here.desk.owners)
    async with here.open() as url, asking("luna", url) as luna:
        for account in ("svc-pay", "svc-x"):
            await asked(luna, account_id=account, key_id="key_1")
        for name in ("jobs", "rotations"):
            rows = (await luna.get(f"/api/v1/{name}")).json()[name]
            assert {row["account_id"]: row["owner"] for row in rows} == {"svc-pay": "payments", "svc-x": None}
            assert "payments" in text_of_page(await luna.get(f"/{name}"))
        for owner, accounts in {
            "payments": {"svc-pay"},
            "@payments": {"svc-pay"},
            "unowned": {"svc-x"},
            "x": set(),
        }.items():
            found = (await luna.get("/api/v1/rotations", params={"owner": owner})).json()["rotations"]
            assert {row["account_id"] for row in found} == accounts
        assert "svc-pay" not in text_of_page(await luna.get("/rotations?owner=unowned"))
        assert (await luna.get("/api/v1/rotations", params={"owner": "' OR ''='"})).status_code == 422
        assert "Open jobs by owner" not in text_of_page(await luna.get("/"))  # no job has one: only the worker sets it
        async with here.engine.begin() as connection:
            of_pay = update(rotation_jobs).where(rotation_jobs.c.account_id == "svc-pay")
            long_ago = datetime.now(UTC) - timedelta(days=3)
            await connection.execute(of_pay.values(owner="payments", rotate_by=long_ago))
        overview = await luna.get("/")
        said = "Open jobs by owner Owner Open Overdue Share overdue payments 1 1 1 of 1 unowned 1 0 0 of 1"
        assert said in text_of_page(overview)
        assert "/jobs?overdue=true&amp;order_by=due&amp;owner=payments" in overview.text


async def test_many_are_approved_together_and_what_refuses_one_leaves_the_others(with_approvals: Place) -> None:
    """Each for the digest that its approver saw; nobody's own, and none that has changed since."""
    roles = "luna=asker+approver; omar=approver; vera=asker"
    async with (
        with_approvals.open(KEYTURN_DESK_ROLES=roles) as url,
        asking("luna", url) as luna,
        asking("omar", url) as omar,
        asking("vera", url) as vera,
    ):
        waits = [await asked(one, key_id=f"key_{number}") for number, one in enumerate((luna, vera, vera, vera))]
        page = await luna.get("/approvals")
        choices = re.findall(r'name="choice" value="([^"]+)"', page.text)
        assert len(choices) == 3, "not one's own"
        assert "another: you asked" in page.text
        stale = f"v1:{'0' * 64} {waits[1]['workflow_id']}"
        kept = [one for one in choices if waits[1]["workflow_id"] not in one]
        form = {"filter": "older_than_days=0", "choice": kept, "reason": " "}
        unsaid = await luna.post("/approvals/decide", data=form | {"decision": "deny"})
        assert (unsaid.status_code, "State the reason of the denial." in unsaid.text) == (422, True)
        assert len(re.findall(r'name="choice" [^>]*checked', unsaid.text)) == 2, "what was selected still is"
        assert 'name="older_than_days" value="0"' in unsaid.text
        nothing = await luna.post("/approvals/decide", data={"decision": "approve", "reason": "it is urgent"})
        assert (nothing.status_code, "No rotation is selected." in nothing.text) == (422, True)
        assert 'value="it is urgent"' in nothing.text
        form = form | {"choice": [*kept, stale], "reason": "the audit asks for it"}
        decided = await luna.post("/approvals/decide", data=form | {"decision": "approve"})
        shown = text_of_page(decided)
        assert "2 of 3 approved" in shown
        assert re.search(r"key_2 of acct_[0-9a-f]+ approved", shown), "by its names"
        assert "stale_digest" in shown
        assert 'href="/approvals?older_than_days=0"' in decided.text
        approved = text_of_page(await luna.get(f"/rotations/{waits[2]['workflow_id']}"))
        assert "approved by luna" in approved
        assert "the audit asks for it" in approved
        absent = kept[0].split()[0] + " no-such-rotation"
        alone = text_of_page(await luna.post("/approvals/decide", data={"decision": "approve", "choice": absent}))
        assert ("0 of 1 approved" in alone, "no-such-rotation" in alone) == (True, True)
        body: dict[str, Any] = {"decision": "deny", "reason": "frozen until Monday"}
        body["choices"] = [{"workflow_id": one["workflow_id"], "digest": one["digest"]} for one in waits[:2]]
        results = (await omar.post("/api/v1/decisions", json=body)).json()["results"]
        assert [one["problem"] for one in results] == [None, None]
        assert (await vera.post("/api/v1/decisions", json=body)).status_code == 403
        refused = await omar.post("/api/v1/decisions", json=body | {"reason": None})
        assert refused.status_code == 422
        async with asyncio.timeout(20):
            while (await omar.get("/api/v1/rotations", params={"state": "awaiting_approval"})).json()["rotations"]:
                await asyncio.sleep(0.05)
        trail = text_of_page(await omar.get(f"/rotations/{waits[1]['workflow_id']}"))
        assert "denied by omar" in trail
        assert "frozen until Monday" in trail


async def test_what_waits_is_listed_with_its_decision_while_no_worker_runs(with_approvals: Place) -> None:
    """The list is read from the server alone: an approver sees what waits, for how long, and what it is due."""
    async with with_approvals.served() as url, asking("omar", url) as omar:
        async with with_approvals.working(), asking("luna", url) as luna:
            waits = await asked(luna, key_id="key_7f3a", account_id="acct_of_billing")
        page = text_of_page(await omar.get("/approvals"))
        assert "key_7f3a of acct_of_billing eligible under P-7@1 in 29 days agrees luna" in page
        (row,) = (await omar.get("/api/v1/rotations", params={"state": "awaiting_approval"})).json()["rotations"]
        assert (row["digest"], row["approvers"]) == (waits["digest"], ["luna", "omar"])
        assert "1 to approve" in text_of_page(await omar.get("/"))
        later = datetime.now(UTC) + timedelta(days=2)
        counts = await count_waiting(with_approvals.client, tenant=with_approvals.tenant, now=later)
        assert counts["awaiting_approval"] == (1, 1, 0)
        assert (await with_approvals.desk.lists.approvals(RotationFilter())).rows


async def test_what_is_wrong_with_a_field_stands_at_it_and_what_was_typed_stays(here: Place) -> None:
    """Also what belongs to the line that was chosen: when the key was last used."""
    form = {"account_id": "acct_1", "key_id": "key_1", "policy_lines": "P-7", "question": "May it?", "stale": "yes"}
    form |= {"key": str(uuid.uuid4()), "last_used_at": "2199-01-02", "age_days": "40"}
    async with here.open() as url, asking("luna", url) as luna:
        answered = await luna.post("/ask", data=form)
        assert answered.status_code == 422
        assert re.search(r'id="last_used_at"[^>]*value="2199-01-02"[^>]*aria-invalid="true"', answered.text)
        assert re.search(r'<p class="fault" id="fault-last_used_at">[^<]+</p>', answered.text)
        assert 'value="acct_1"' in answered.text
        right = await luna.post("/ask", data=form | {"last_used_at": "2026-01-02", "key": str(uuid.uuid4())})
        assert right.status_code == 303
        page = text_of_page(await luna.get(right.headers["location"]))
        assert "last used at 2026-01-02 00:00:00Z" in page


async def test_a_rotations_page_says_what_holds_what_was_read_and_what_comes_next(here: Place) -> None:
    """Evidence with its source, the wording beside what holds, rule and model side by side, the audit, the job."""
    async with here.open(KEYTURN_TEMPORAL_UI="http://127.0.0.1:8233") as url, asking("luna", url) as luna:
        one = await asked(luna, account_id="acct_of_billing", key_id="key_7f3a", source="iam-export-2026-11")
        page = text_of_page(await luna.get(f"/rotations/{one['workflow_id']}"))
        for shown in (
            "key_7f3a of acct_of_billing",
            "Next: It is delivered to its receivers, and an executor claims it.",
            "source iam-export-2026-11",
            "P-7@1 holds Stale service-account keys must rotate within 30 days.",
            "By rule eligible under P-7@1",
            "By openai simulator-1 eligible, citing P-7@1",
            "created by luna",
        ):
            assert shown in page, (shown, page)
        job = text_of_page(await luna.get(f"/jobs/{one['job_id']}"))
        assert "key_7f3a, as it was decided" in job


async def test_names_of_another_tenants_rotations_are_not_shown_where_they_are_chosen(
    temporal: Client, sqlite: URL, simulator: SimulatorControl
) -> None:
    """Decided or resumed together, each choice is answered; one of another tenant's by its ID alone."""
    async with (
        place(temporal, sqlite, simulator) as ours,
        place(temporal, sqlite, simulator) as theirs,
        ours.open() as url,
        theirs.open() as other,
        asking("luna", url) as luna,
        asking("omar", other) as omar,
    ):
        named = await asked(luna, account_id="svc-merger-with-acme", key_id="key_of_the_merger")
        chosen = named["workflow_id"]
        for path, data in (
            ("/rotations/resume", {"choice": chosen}),
            ("/approvals/decide", {"choice": f"v1:{'0' * 64} {chosen}", "decision": "approve"}),
        ):
            answer = await omar.post(path, data=data)
            assert "0 of 1" in text_of_page(answer), text_of_page(answer)[:300]
            assert "merger" not in answer.text.replace(chosen, "")


async def test_parked_rotations_are_resumed_together_by_an_operator(here: Place) -> None:
    """After an outage: selected on the list, each with its own answer; nobody else is offered it."""
    await here.simulator.fail("quota", times=None)
    roles = "luna=asker; omar=operator"
    async with here.open(KEYTURN_DESK_ROLES=roles) as url, asking("luna", url) as luna, asking("omar", url) as omar:
        parked = [await asked(luna, key_id=f"key_{number}") for number in range(3)]
        assert {one["status"] for one in parked} == {"parked"}
        page = await omar.get("/rotations?state=parked")
        assert "parked quota exhausted" in text_of_page(page)
        choices = re.findall(r'name="choice" value="([^"]+)"', page.text)
        assert sorted(choices) == sorted(one["workflow_id"] for one in parked)
        assert "choice" not in (await luna.get("/rotations?state=parked")).text
        assert (await luna.post("/rotations/resume", data={"choice": choices})).status_code == 403
        await here.simulator.reset()
        resumed = await omar.post("/rotations/resume", data={"choice": [*choices, "rotate:none:a:k:P-7@1"]})
        assert "3 of 4 resumed" in text_of_page(resumed)
        async with asyncio.timeout(20):
            while len((await luna.get("/api/v1/rotations", params={"state": "job_created"})).json()["rotations"]) < 3:
                await asyncio.sleep(0.05)


def test_an_item_that_an_earlier_version_took_is_listed_without_its_age() -> None:
    """Its facts would be refused today; the page of its run is not."""
    stored = {"key_id": "AKIAX", "kind": "access_key", "observed_at": "2026-11-01T00:00:00Z"}
    assert _stored_facts(stored) is not None
    assert _stored_facts(stored | {"last_used_at": "1970-01-01T05:00:00Z"}) is None
