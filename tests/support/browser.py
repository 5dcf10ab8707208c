"""A real headless browser, for what only a page can show: Debian's Chromium, driven by playwright."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, async_playwright, expect

CHROMIUM = shutil.which("chromium")
SECONDS = 30  # a page that is slow to come, on two busy cores
expect.set_options(timeout=SECONDS * 1000)


@asynccontextmanager
async def browser(**context: Any) -> AsyncIterator[Page]:
    """Yield a page of a fresh browser: no cookies, no settings but those of `context`."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = await chromium.new_page(**{"viewport": {"width": 1400, "height": 960}} | context)
            page.set_default_timeout(SECONDS * 1000)
            yield page
        finally:
            await chromium.close()


async def shows(page: Page, text: str) -> None:
    """Wait until `text` stands on the page."""
    await expect(page.locator("body")).to_contain_text(text, use_inner_text=True)


async def opened(page: Page, url: str) -> None:
    """Open a page of Temporal's UI; again while it shows its own error, as it does on a machine that is busy."""
    async with asyncio.timeout(60):
        while True:
            await page.goto(url)
            await until(page, "(document.body?.innerText ?? '').length > 0")
            if "Internal Error" not in await page.inner_text("body"):
                return
            await asyncio.sleep(0.5)


async def until(page: Page, script: str) -> None:
    """Wait until a JavaScript expression is true. playwright's own way needs `eval`, which a strict policy forbids."""
    async with asyncio.timeout(SECONDS):
        while not await page.evaluate(f"Boolean({script})"):
            await asyncio.sleep(0.05)


async def faults_of_page(page: Page) -> list[str]:
    """What axe-core finds on the page."""
    found = (await Axe().run(page)).response["violations"]
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}" for one in found]


async def width_beyond_screen(page: Page) -> int:
    """By how many pixels a page is wider than its screen: a reader would have to scroll sideways."""
    wider: int = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider


async def sign_in(page: Page, token: str) -> None:
    """On the codec server's page, with a token."""
    await page.fill("#token", token)
    await page.locator("form:has(#token) button").click()


async def include_credentials(page: Page, codec: str) -> None:
    """In Temporal's UI (2.54): the glasses in the top bar, then its dialog; applied when it is closed."""
    in_the_bar = "(box => box.width && box.y < 48 && box.x > 1100)(button.getBoundingClientRect())"
    glasses = (
        f"[...document.querySelectorAll('button')].filter(button => {in_the_bar})[0]"  # the news and the profile follow
    )
    opened = "document.querySelector('#use-local-endpoint-radio')?.checkVisibility()"
    await until(page, f"{opened} || ({glasses}?.click(), false)")  # a click before the page is alive is lost
    await page.evaluate("document.querySelector('#use-local-endpoint-radio').click()")
    dialog = "document.querySelector('#use-local-endpoint-radio').closest('form')"
    field = "document.querySelector('#data-encoder-endpoint-input')"
    await until(page, field)
    await page.evaluate(
        f"(() => {{ const field = {field}; field.value = {json.dumps(codec)}; "
        "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    await page.evaluate("document.querySelector('#pass-access-credentials').click()")
    apply = f"{dialog}.querySelector('[data-testid=confirm-modal-button]')"
    await until(page, f"!{apply}.disabled")
    await page.evaluate(f"{apply}.click()")
