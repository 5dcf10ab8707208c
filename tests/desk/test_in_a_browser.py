"""The desk in a real browser, as users work with it: by mouse, keyboard and phone; with hostile text, and cut off."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import unquote, urljoin

import pytest
from playwright.async_api import Page, expect
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.application.rotation_lists import RotationFilter
from keyturn.calls import CallRecord
from keyturn.ledger.store import LedgerStore
from tests.desk.test_lists import run_with_items
from tests.support.browser import CHROMIUM, browser, faults_of_page, shows, width_beyond_screen
from tests.support.desks import TOKENS, Place, place
from tests.support.simulated import SimulatorControl

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium (.ci/run does)")
HOSTILE = "\"><img src=x onerror=document.title='owned'><script>document.title='owned'</script>{{7*7}}'--"


@pytest.fixture
async def here(temporal: Client, sqlite: URL, simulator: SimulatorControl) -> AsyncIterator[Place]:
    async with place(temporal, sqlite, simulator, approvers=("omar",)) as made:
        yield made


async def sign_in(page: Page, url: str, name: str) -> None:
    await page.goto(url)
    await page.fill("#token", TOKENS[name])
    await page.keyboard.press("Enter")
    await expect(page.locator(".who")).to_contain_text(name)
    await page.wait_for_load_state()  # its styles, too


async def ask(page: Page, account: str, *, question: str = "May the stale key be rotated?") -> None:
    await page.goto(urljoin(page.url, "/ask"))
    await page.fill("#account_id", account)
    await page.fill("#key_id", "key_01")
    await page.select_option("#stale", "yes")
    await page.fill("#age_days", "40")
    await page.fill("#question", question)
    await page.get_by_role("button", name="Ask").click()
    await page.wait_for_url("**/rotations/**")


async def test_a_question_becomes_a_draft_that_is_stopped_an_approval_and_a_job(here: Place) -> None:
    """The whole way, on one screen after the other; axe-core finds nothing that keeps any user out."""
    account = f"acct_{uuid.uuid4().hex[:10]}"
    await here.simulator.pace(0.5)  # so that the stop comes before the end, however slow the browser is
    async with here.open() as url, browser() as page:
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        await page.goto(url)
        faults += await faults_of_page(page)
        await sign_in(page, url, "luna")
        faults += await faults_of_page(page)
        await ask(page, account)
        await expect(page.locator("#state")).to_contain_text("awaiting approval")
        await expect(page.locator("#state")).to_contain_text("Stale service-account keys must rotate within 30 days.")
        await shows(page, "To approve it, you need the role approver.")
        faults += await faults_of_page(page)

        await page.get_by_role("button", name="Draft a reply").click()
        await page.wait_for_url("**/drafts/**")
        await expect(page.locator("#draft-text")).to_contain_text("Thank you")
        faults += await faults_of_page(page)
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#draft-state")).to_have_text("cancelled")
        shown = await page.inner_text("#draft-text")
        await page.reload()
        assert (await page.inner_text("#draft-text")).startswith(shown.rstrip()), "what had come is still there"
        assert "closed_at" in (await here.simulator.requests())[-1]

        await page.get_by_role("button", name="Sign out").click()
        await sign_in(page, url, "omar")
        await page.goto(url + "/approvals")
        await page.locator(".list a").click()
        await page.get_by_role("button", name="Approve exactly this").click()
        await expect(page.locator("#state")).to_contain_text("job created")
        await shows(page, "approved by omar")
        await page.locator("#state a").first.click()
        await shows(page, "Audit trail")
        await shows(page, account)
        faults += await faults_of_page(page)
    assert faults == []


def call(tenant: str) -> CallRecord:
    """As wide as the calls of an estate are."""
    return CallRecord(
        trace_id=f"bulk_{uuid.uuid4().hex}",
        task="decide_rotation",
        provider="openai",
        model="a-model-with-a-long-name-2026-11-28",
        prompt_version="rotation_decision@1",
        attempt=1,
        status="invalid_output",
        latency_ms=12_345.6,
        input_tokens=1_234_567,
        output_tokens=1_234_567,
        cost_usd=Decimal("1234.5"),
        called_at=datetime.now(UTC),
        tenant_id=tenant,
        user_id="somebody.with.a.name@example.org",
    )


@pytest.mark.parametrize("width", [1400, 360])
async def test_every_page_with_something_on_it_fits_its_screen_and_axe_finds_nothing(here: Place, width: int) -> None:
    """Also for who may decide nothing; long names break within themselves."""
    account = f"projects/example-{uuid.uuid4().hex}/serviceAccounts/ci@example.iam.gserviceaccount.com"[:120]
    async with here.open() as url, browser(viewport={"width": width, "height": 800}) as page:
        await sign_in(page, url, "luna")
        await ask(page, account)
        waits = page.url
        await page.goto(url + "/approvals")
        assert await faults_of_page(page) == []
        await page.goto(url + "/ask")
        await page.get_by_role("button", name="Sign out").click()
        await sign_in(page, url, "omar")
        await page.goto(waits)
        await page.get_by_role("button", name="Approve exactly this").click()
        await expect(page.locator("#state")).to_contain_text("job created")
        job = urljoin(url, str(await page.locator("#state a").first.get_attribute("href")))
        await LedgerStore(here.engine).write([("1" * 32, call(here.tenant))])
        found = {}
        long = f"run-of-{uuid.uuid4().hex}"
        item = {"outcome": "job_created", "ask": 1, "model": "a-model-with-a-long-name-2026-11-28", "job_id": "job_1"}
        await run_with_items(
            here, long, [item | {"account_id": account}, {"outcome": "bad_row", "explanation": "x" * 90}]
        )
        lists = ("", "approvals", "rotations", "jobs", "runs", f"runs/{long}", "calls", "waivers", "exposed", "ask")
        for place_of_it in (*(f"{url}/{name}" for name in lists), waits, job):
            answered = await page.goto(place_of_it)
            assert answered is not None
            assert answered.ok, place_of_it
            found[place_of_it] = (await width_beyond_screen(page), await faults_of_page(page))
    assert {name: one for name, one in found.items() if one != (0, [])} == {}


async def test_a_link_in_a_message_leads_to_its_page_without_another_sign_in(here: Place) -> None:
    """A message is read at another site, such as a chat's: its link is a navigation from there."""
    account = f"acct_{uuid.uuid4().hex[:10]}"
    async with here.open() as url, browser() as page:
        await sign_in(page, url, "luna")
        await ask(page, account)
        waits = page.url
        await page.goto("about:blank")
        elsewhere = url.replace("127.0.0.1", "localhost")  # a site of its own, by its name
        link = f'<a href="{waits}">Decide</a>'
        await page.route(elsewhere + "/**", lambda route: route.fulfill(content_type="text/html", body=link))
        await page.goto(elsewhere + "/chat")
        await page.get_by_role("link").click()
        await page.wait_for_url(waits)
        await expect(page.locator("#state")).to_contain_text("awaiting approval")


async def test_hostile_text_in_every_field_is_only_text(here: Place) -> None:
    """Of askers, of approvers and of models: nothing of it runs, and nothing leaves."""
    account = f"acct_{uuid.uuid4().hex[:10]}"
    async with here.open(KEYTURN_DESK_ROLES="*=asker+approver+operator") as url, browser() as page:
        elsewhere = []
        page.on("request", lambda request: None if request.url.startswith(url) else elsewhere.append(request.url))
        await sign_in(page, url, "luna")
        await ask(page, account, question=HOSTILE)
        await shows(page, HOSTILE)
        await here.simulator.fail("says", content=f"Your question about P-7 waits for a review. {HOSTILE}")
        await page.get_by_role("button", name="Draft a reply").click()
        await expect(page.locator("#draft-state")).to_contain_text("unapproved: holds")
        await shows(page, HOSTILE)
        await page.reload()
        await shows(page, HOSTILE)
        assert await page.locator("img").count() == 0
        for field in ("#account_id", "#key_id"):
            await page.goto(url + "/ask")
            await page.fill("#account_id", "acct_1")
            await page.fill("#key_id", "key_1")
            await page.fill(field, HOSTILE)
            await page.get_by_role("button", name="Ask").click()
            await shows(page, "Invalid request")
            assert await page.input_value(field) == HOSTILE, "what was typed is not lost"
        await page.get_by_role("button", name="Sign out").click()
        await sign_in(page, url, "omar")
        await page.goto(url + "/approvals")
        await page.locator(".list a").click()
        await page.fill("#deny-reason", HOSTILE)
        await page.get_by_role("button", name="Deny").click()
        await expect(page.locator("#state")).to_contain_text("approval denied")
        assert "owned" not in await page.title()
        for path in ("/rotations/" + HOSTILE, "/drafts/" + HOSTILE, "/jobs/" + HOSTILE, "/" + HOSTILE):
            await page.goto(url + path.replace("'", "%27"))
            await shows(page, "Not found")
            assert "owned" not in await page.title()
    assert elsewhere == []


async def test_by_keyboard_alone_on_a_phone_in_the_dark(here: Place) -> None:
    """Nothing is wider than the screen, everything is reached by Tab, and what is focused is seen."""
    async with here.open() as url, browser(viewport={"width": 360, "height": 740}, color_scheme="dark") as page:
        await sign_in(page, url, "luna")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        assert await faults_of_page(page) == []
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        await page.keyboard.press("Escape")
        await page.evaluate("document.activeElement.blur()")
        await page.keyboard.press("?")
        await expect(page.locator("#keys")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator("#keys")).to_be_hidden()
        await page.keyboard.type("gn")
        await page.wait_for_url("**/ask")
        await page.focus("#account_id")
        await page.keyboard.type(f"acct_{uuid.uuid4().hex[:8]}")
        await page.keyboard.press("Tab")
        await page.keyboard.type("key_01")
        for _ in range(3):
            await page.keyboard.press("Tab")
        await page.keyboard.type("yes")
        assert await page.input_value("#stale") == "yes"
        assert "none" not in await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        await page.keyboard.press("Tab")
        while await page.evaluate("document.activeElement.id") != "question":
            await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/rotations/**")
        await expect(page.locator("#state")).to_contain_text("awaiting approval")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_nothing_is_lost_by_a_reload_or_a_desk_that_goes_away(here: Place) -> None:
    """The draft continues without it, and the same page finds the rest when the desk is back."""
    await here.simulator.pace(0.05)
    async with here.working(), browser() as page:
        async with here.served() as url:
            await sign_in(page, url, "luna")
            await ask(page, f"acct_{uuid.uuid4().hex[:8]}")
            await page.get_by_role("button", name="Draft a reply").click()
            await expect(page.locator("#draft-text")).to_contain_text("Thank you")
            await page.reload()
            await expect(page.locator("#draft-text")).to_contain_text("Thank you")
        await asyncio.sleep(0.5)  # the desk is gone for a while, in which more is written
        async with here.served(KEYTURN_DESK_ADDRESS=url.removeprefix("http://")):
            await expect(page.locator("#draft-state")).to_contain_text("completed", timeout=60_000)
            draft = await here.desk.find_draft(unquote(page.url.split("/drafts/")[1].split("?")[0]))
            assert await page.inner_text("#draft-text") == draft.text


async def test_whoever_waits_for_an_approval_sees_it_given(here: Place) -> None:
    """On the asker's own page, without a click."""
    async with here.open() as url, browser() as page:
        await sign_in(page, url, "luna")
        await ask(page, f"acct_{uuid.uuid4().hex[:8]}")
        await expect(page.locator("#state")).to_contain_text("awaiting approval")
        ((waits,), digest) = (
            (await here.desk.lists.approvals(RotationFilter())).rows,
            await page.inner_text("#state code"),
        )
        await here.desk.approve("omar", waits["workflow_id"], digest)
        await expect(page.locator("#state")).to_contain_text("approved by omar")


async def test_a_slow_decision_completes_on_the_page_by_itself(here: Place) -> None:
    """What is waited for is named, and then the page has the decision without a click."""
    await here.simulator.fail("slow", seconds=3)
    async with here.open(KEYTURN_DESK_WAIT_SECONDS=0.3) as url, browser() as page:
        await sign_in(page, url, "luna")
        await ask(page, f"acct_{uuid.uuid4().hex[:8]}")
        await expect(page.locator("#state")).to_contain_text("This page updates by itself")
        await expect(page.locator("#state")).to_contain_text("awaiting approval")


@pytest.mark.parametrize("width", [1400, 390])
async def test_an_exposed_key_is_reported_by_form_and_listed(here: Place, width: int) -> None:
    async with here.open() as url, browser(viewport={"width": width, "height": 900}) as page:
        await sign_in(page, url, "luna")
        await page.goto(urljoin(url, "/exposed"))
        await page.fill("#key_id", "key_of_nobody")
        await page.fill("#source", "gitleaks")
        await page.get_by_role("button", name="Report").click()
        await shows(page, "no inventory and no job of this tenant names the key")
        await page.fill("#account_id", f"acct_{uuid.uuid4().hex[:10]}")
        await page.get_by_role("button", name="Report").click()
        await page.wait_for_url("**/rotations/**")
        await page.goto(urljoin(url, "/exposed"))
        await shows(page, "gitleaks")
        assert await faults_of_page(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
