"""A real headless browser, driven over the DevTools protocol, for what only a page can show."""

import asyncio
import base64
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from stack.processes import child

CHROMIUM = shutil.which("chromium")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1400,960",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def goto(self, url: str) -> None:
        """Open `url`; what is awaited on it says when it is there."""
        await self._call("Page.navigate", url=url)

    async def evaluate(self, script: str) -> Any:
        """Return what a JavaScript expression gives."""
        done = await self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def until(self, script: str, *, seconds: float = 30) -> None:
        """Wait until a JavaScript expression is true."""
        try:
            async with asyncio.timeout(seconds):
                while not await self.evaluate(f"Boolean({script})"):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"never true: {script}\n{(await self.text())[:3000]}") from None

    async def shows(self, text: str) -> None:
        """Wait until `text` stands on the page."""
        await self.until(f"document.body && document.body.innerText.includes({json.dumps(text)})")

    async def text(self) -> str:
        """Return the page's text."""
        return str(await self.evaluate("document.body ? document.body.innerText : ''"))

    async def screenshot(self, file: Path) -> None:
        """Write what the window shows as PNG."""
        shot = await self._call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async for message in self._socket:
            told = json.loads(message.data)
            if told.get("id") == number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result
        raise AssertionError("the browser went away")


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Yield a page of a fresh browser: no cookies, no settings."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="keyturn-browser-", ignore_cleanup_errors=True) as folder:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        async with child(command, log=Path(folder) / "chromium.out"), aiohttp.ClientSession() as http:
            port = await _port(Path(folder) / "DevToolsActivePort")
            async with http.get(f"http://127.0.0.1:{port}/json/list") as listed:
                [target] = [one for one in await listed.json() if one["type"] == "page"]
            async with http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)


async def _port(file: Path) -> int:
    async with asyncio.timeout(30):
        while not file.exists() or not file.read_text().strip():
            await asyncio.sleep(0.05)
    return int(file.read_text().splitlines()[0])


async def sign_in(page: Page, token: str) -> None:
    """On the codec server's page, with a token."""
    await page.until("document.querySelector('#token')")
    await page.evaluate(f"document.querySelector('#token').value = {json.dumps(token)}")
    await page.evaluate("document.querySelector('form').submit()")


async def include_credentials(page: Page, codec: str) -> None:
    """In Temporal's UI (2.54): the glasses in the top bar, then its dialog; applied when it is closed."""
    in_the_bar = "(box => box.width && box.y < 48 && box.x > 1100)(button.getBoundingClientRect())"
    glasses = (
        f"[...document.querySelectorAll('button')].filter(button => {in_the_bar})[0]"  # the news and the profile follow
    )
    opened = "document.querySelector('#use-local-endpoint-radio')?.checkVisibility()"
    await page.until(f"{opened} || ({glasses}?.click(), false)")  # a click before the page is alive is lost
    await page.evaluate("document.querySelector('#use-local-endpoint-radio').click()")
    dialog = "document.querySelector('#use-local-endpoint-radio').closest('form')"
    field = "document.querySelector('#data-encoder-endpoint-input')"
    await page.until(field)
    await page.evaluate(
        f"(() => {{ const field = {field}; field.value = {json.dumps(codec)}; "
        "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    await page.evaluate("document.querySelector('#pass-access-credentials').click()")
    apply = f"{dialog}.querySelector('[data-testid=confirm-modal-button]')"
    await page.until(f"!{apply}.disabled")
    await page.evaluate(f"{apply}.click()")
