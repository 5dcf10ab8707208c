"""The pictures in docs/images, taken of a running stack by a headless browser: `make screenshots`."""

import asyncio
import tempfile
from pathlib import Path
from urllib.parse import quote

from playwright.async_api import Page

from keyturn.application.requests import id_of
from keyturn.application.rotations import rotate, start_or_attach
from keyturn.database import database_url, open_database
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.embedded import Ports, Stack, embedded_stack
from keyturn.llm.errors import QuotaExhausted
from tests.support.browser import browser, include_credentials, shows, sign_in, until
from tests.support.cases import QUESTION, facts, request
from tests.support.record_histories import Place
from tests.support.workers_for_tests import ELIGIBLE, Script, with_approval, worker_on

FOLDER = Path(__file__).parents[2] / "docs" / "images"


async def take() -> None:
    """Bring rotations to what the documents describe, and take a picture of each."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        running = embedded_stack(
            folder, ports=Ports(), keep=False, worker_log=folder / "worker.log", codec=True, desk=True
        )
        async with running as stack, browser() as page:
            asked = request(credential=facts(key_id="key_7f3a"), user_id="luna")
            await rotate(stack.client, asked, task_queue="keyturn", wait_seconds=60)
            await page.goto(stack.history_url(id_of(asked)))
            await shows(page, "Codec Server could not connect")
            await shows(page, "create_rotation_job")
            await page.screenshot(path=FOLDER / "history-encrypted.png")
            await page.goto(str(stack.codec))
            await sign_in(page, (folder / "codec_token").read_text())
            await shows(page, "Signed in")
            await page.screenshot(path=FOLDER / "codec-signed-in.png")
            await page.goto(stack.history_url(id_of(asked)))
            await shows(page, "Event History")
            await include_credentials(page, str(stack.codec))
            await page.goto(stack.history_url(id_of(asked)))
            await shows(page, QUESTION)
            await shows(page, "ask the model under P-7@1")
            await page.screenshot(path=FOLDER / "history.png")
            await _of_people(stack, page)
            await _of_the_desk(str(stack.desk), page)


async def _of_people(stack: Stack, page: Page) -> None:
    engine = open_database(database_url(stack.database))
    store, queue = JobStore(engine), "screenshots"
    script = Script(QuotaExhausted("x"), QuotaExhausted("x"), ELIGIBLE, ELIGIBLE)
    async with worker_on(stack.client, queue, script, store, catalogue=with_approval()):
        for number, phase in enumerate(("parked", "parked", "awaiting_approval", "awaiting_approval")):
            asked = request(credential=facts(key_id=f"key_{number}"), account_id=f"acct_1024{number}", user_id="luna")
            handle = (await start_or_attach(stack.client, asked, task_queue=queue)).handle
            await Place(stack.client, handle, asked.credential.key_id, queue).digest_at(phase)
        query = "KeyturnParked IS NOT NULL AND ExecutionStatus='Running'"
        await page.goto(f"{stack.ui}/namespaces/default/workflows?query={quote(query)}")
        await until(page, "document.body.innerText.split('RotationWorkflow').length > 3")
        await page.screenshot(path=FOLDER / "parked.png")
        described = await handle.describe()
        await page.goto(f"{stack.history_url(handle.id)}/{described.run_id}/user-metadata")
        await shows(page, "Current Details")
        await page.evaluate("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'r', bubbles: true}))")
        await until(page, "document.querySelectorAll('iframe').length > 2")  # the UI shows Markdown in separate frames
        await asyncio.sleep(2)  # and they have no sign of being painted
        await page.screenshot(path=FOLDER / "approval.png")
        await _of_approvals(str(stack.desk), page)
        await handle.terminate()
    await engine.dispose()


async def _of_approvals(url: str, page: Page) -> None:
    await page.set_viewport_size({"width": 1100, "height": 720})
    await page.goto(url)
    await page.fill("#act-as", "omar")
    await page.get_by_role("button", name="Change").click()
    await page.goto(f"{url}/approvals")
    await page.check("#select-all")
    await page.screenshot(path=FOLDER / "desk-approvals.png")
    await page.set_viewport_size({"width": 1400, "height": 960})


async def _of_the_desk(url: str, page: Page) -> None:
    await page.set_viewport_size({"width": 1100, "height": 720})
    await page.goto(f"{url}/ask")
    for field, value in (("account_id", "acct_10234"), ("key_id", "key_9b1d"), ("age_days", "40")):
        await page.fill(f"#{field}", value)
    await page.select_option("#stale", "yes")
    await page.get_by_role("button", name="Ask").click()
    await page.wait_for_selector("[data-settled=yes]")
    await page.screenshot(path=FOLDER / "desk.png")
    await page.get_by_role("button", name="Draft a reply").click()
    await shows(page, "If the key is still in use")
    await page.screenshot(path=FOLDER / "desk-draft.png")


if __name__ == "__main__":
    asyncio.run(take())
