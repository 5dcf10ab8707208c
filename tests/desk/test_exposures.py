"""Exposed keys at the desk: everybody sees which were reported, askers report one, and its rotation starts at once."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.engine import URL
from temporalio.client import Client

from tests.desk.test_lists import text_of_page
from tests.support.desks import Place, asking, place
from tests.support.simulated import SimulatorControl

ROLES = "luna=asker; omar=approver"


@pytest.fixture
async def here(temporal: Client, sqlite: URL, simulator: SimulatorControl) -> AsyncIterator[Place]:
    async with place(temporal, sqlite, simulator) as made:
        yield made


async def test_an_asker_reports_an_exposed_key_and_everybody_sees_it(here: Place) -> None:
    async with here.open(roles=ROLES) as url, asking("luna", url) as luna, asking("omar", url) as omar:
        assert "No key was reported." in text_of_page(await omar.get("/exposed"))
        given = {"key_id": "key_leaked", "account_id": "svc-pay", "source": "gitleaks"}
        assert (await omar.post("/exposed", data=given)).status_code == 403
        began = await luna.post("/exposed", data=given)
        assert (began.status_code, began.headers["location"].startswith("/rotations/")) == (303, True)
        assert (await luna.get(began.headers["location"])).status_code == 200
        page = await omar.get("/exposed")
        assert "key_leaked svc-pay unowned gitleaks luna" in text_of_page(page)
        assert '"/rotations?account_id=svc-pay&amp;key_id=key_leaked"' in page.text
        assert "Report an exposed key" not in page.text
        assert "Report an exposed key" in (await luna.get("/exposed")).text
        [row] = (await omar.get("/api/v1/compromised")).json()["exposed"]
        assert (row["key_id"], row["source"], row["reported_by"]) == ("key_leaked", "gitleaks", "luna")
        found = (await omar.get("/api/v1/rotations", params={"account_id": "svc-pay"})).json()["rotations"]
        assert [one["key_id"] for one in found] == ["key_leaked"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"key_id": ""}, "key_id"),
        ({"key_id": "key_of_nobody"}, "no inventory and no job of this tenant names the key"),
        ({"key_id": "k", "account_id": "a", "kind": "passport"}, "kind"),
        # A secret in the place of its ID is refused, and nothing is marked: the list would show it to everybody.
        ({"key_id": "ghp_" + "0aB1" * 9, "account_id": "a"}, "is a secret, not an ID"),
        ({"key_id": "k", "account_id": "ghp_" + "0aB1" * 9}, "is a secret, not an ID"),
    ],
)
async def test_what_cannot_be_reported_is_said_at_its_field_and_nothing_typed_is_lost(
    here: Place, given: dict[str, str], said: str
) -> None:
    async with here.open(roles=ROLES) as url, asking("luna", url) as luna:
        refused = await luna.post("/exposed", data={"source": "a-person", **given})
        assert 400 <= refused.status_code < 500
        assert said in refused.text
        assert 'value="a-person"' in refused.text
        assert "No key was reported." in refused.text
