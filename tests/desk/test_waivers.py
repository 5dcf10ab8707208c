"""Waivers at the desk: approvers grant and end them, on the page and by JSON; what is refused is said at its field."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.execution.mapping import KeyMap, KeyMapping
from keyturn.owners import Owners
from tests.desk.test_lists import asked, text_of_page
from tests.support.desks import Place, asking, place
from tests.support.simulated import SimulatorControl

ROLES = "luna=asker; omar=approver"
UNTIL = f"{datetime.now(UTC) + timedelta(days=20):%Y-%m-%d}"


@pytest.fixture
async def here(temporal: Client, sqlite: URL, simulator: SimulatorControl) -> AsyncIterator[Place]:
    async with place(temporal, sqlite, simulator) as made:
        yield made


async def test_an_approver_exempts_keys_and_ends_the_exemption(here: Place) -> None:
    """The key is due, and waived; nobody without the role may change that."""
    async with here.open(roles=ROLES) as url, asking("luna", url) as luna, asking("omar", url) as omar:
        given = {"account": "svc-legacy-*", "until": UNTIL, "reason": "the vendor replaces it"}
        assert (await luna.post("/waivers", data=given)).status_code == 403
        assert (await omar.post("/waivers", data=given)).status_code == 303
        page = await omar.get("/waivers")
        assert "account svc-legacy-*" in (text := text_of_page(page))
        assert "the vendor replaces it omar" in text
        assert "Exempt keys" not in text_of_page(await luna.get("/waivers"))
        found = await asked(luna, account_id="svc-legacy-7")
        assert (found["status"], found["waiver"]["granted_by"]) == ("waived", "omar")
        rows = (await luna.get("/api/v1/rotations", params={"state": "waived"})).json()["rotations"]
        assert [row["account_id"] for row in rows] == ["svc-legacy-7"]
        assert "by omar: the vendor replaces it" in text_of_page(await luna.get(f"/rotations/{found['workflow_id']}"))
        [waiver] = (await luna.get("/api/v1/waivers")).json()["waivers"]
        assert (await luna.post(f"/api/v1/waivers/{waiver['waiver_id']}/end")).status_code == 403
        assert (await omar.post("/waivers/end", data={"waiver_id": waiver["waiver_id"]})).status_code == 303
        assert "No waiver holds." in text_of_page(await luna.get("/waivers"))


async def test_whoever_grants_a_waiver_is_told_of_the_open_jobs(here: Place) -> None:
    """And the job's page says what it waits for."""
    async with here.open(roles=ROLES) as url, asking("luna", url) as luna, asking("omar", url) as omar:
        made = await asked(luna, account_id="svc-legacy-7")
        assert made["status"] == "job_created"
        given = {"account": "svc-legacy-*", "until": UNTIL, "reason": "the vendor replaces it"}
        granted = await omar.post("/waivers", data=given, follow_redirects=True)
        text = text_of_page(granted)
        assert f"exempts account svc-legacy-* until {UNTIL}" in text
        assert "There is 1 open job of such keys: no executor starts it now" in text
        assert f'href="/jobs/{made["job_id"]}"' in granted.text
        job = text_of_page(await luna.get(f"/jobs/{made['job_id']}"))
        assert "Next: Nothing until the waiver ends" in job


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"until": "soon"}, "write a day such as 2027-01-31"),
        ({"until": "2020-01-01"}, "Not granted: 2020-01-01 is in the past"),
        ({"until": "2199-01-01"}, "365 days at most"),
        ({"account": ""}, "names an account, a key, an owner or a policy line"),
        ({"owner": "omar"}, "omar owns the keys"),
        ({"line": "P-777"}, "P-777"),
        ({"reason": ""}, "at least 1 character"),
    ],
)
async def test_what_cannot_be_granted_is_said_and_nothing_typed_is_lost(
    here: Place, changed: dict[str, str], says: str
) -> None:
    given = {"account": "svc-legacy-*", "until": UNTIL, "reason": "the vendor replaces it"} | changed
    async with here.served(roles=ROLES) as url, asking("omar", url) as omar:
        refused = await omar.post("/waivers", data=given)
        assert refused.status_code in {404, 422}
        assert says in text_of_page(refused)
        if given["account"]:
            assert 'value="svc-legacy-*"' in refused.text


async def test_an_exposed_key_is_reported_by_the_json_api(here: Place) -> None:
    """Asked for as any rotation is: by an asker."""
    async with here.open(roles=ROLES) as url, asking("luna", url) as luna, asking("omar", url) as omar:
        given = {"key_id": "key_exposed", "account_id": "svc-pay", "source": "gitleaks"}
        assert (await omar.post("/api/v1/compromised", json=given)).status_code == 403
        unknown = await luna.post("/api/v1/compromised", json={"key_id": "key_exposed"})
        assert (unknown.status_code, unknown.json()["kind"]) == (404, "unknown_key")
        began = await luna.post("/api/v1/compromised", json=given)
        assert began.status_code == 202
        [rotation] = began.json()["rotations"]
        assert (rotation["is_new"], rotation["policy_lines"]) == (True, ["P-EXPOSED@1"])
        state = (await luna.get(f"/api/v1/rotations/{rotation['workflow_id']}")).json()
        assert state["status"] in {"running", "job_created", "rejected"}


async def test_the_json_api_grants_and_ends_by_the_same_rules(here: Place) -> None:
    async with here.served(roles=ROLES) as url, asking("omar", url) as omar:
        given = {"owner": "payments", "until": f"{UNTIL}T00:00:00Z", "reason": "a freeze"}
        unknown = await omar.post("/api/v1/waivers", json=given)
        assert (unknown.status_code, unknown.json()["kind"]) == (422, "waiver_refused")
        assert "no file, no inventory and no job names the owner payments" in unknown.json()["detail"]
        here.desk.owners = Owners(KeyMap([KeyMapping(account="svc-pay", owner="payments")]))
        made = await omar.post("/api/v1/waivers", json=given)
        assert (made.status_code, made.json()["granted_by"]) == (201, "omar")
        assert (await omar.post("/api/v1/waivers", json=given | {"owner": "Omar"})).status_code == 422
        assert (await omar.post("/api/v1/waivers", json=given | {"until": "2099-01-01"})).status_code == 422
        ended = await omar.post(f"/api/v1/waivers/{made.json()['waiver_id']}/end")
        again = await omar.post(f"/api/v1/waivers/{made.json()['waiver_id']}/end")
        assert (ended.status_code, again.status_code) == (204, 404)
