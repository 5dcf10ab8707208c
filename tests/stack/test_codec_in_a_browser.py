"""Temporal's own UI in a real browser: ciphertext to strangers, the decision to the operator who signed in."""

import json
from pathlib import Path

import pytest

from keyturn.application.requests import id_of
from keyturn.application.rotations import rotate
from keyturn.lab.stack.embedded import Ports, embedded_stack
from keyturn.rotations.outcomes import JobCreated
from tests.support.browser import CHROMIUM, browser, include_credentials, opened, shows, sign_in, until
from tests.support.cases import QUESTION, request

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium (.ci/run does)")
PAGE = "(document.body?.innerText ?? '')"


async def test_the_ui_shows_ciphertext_until_an_operator_signs_in(tmp_path: Path) -> None:
    """By the codec server's own page and the UI's own dialog, as a person does it."""
    running = embedded_stack(tmp_path, ports=Ports(), keep=False, worker_log=tmp_path / "worker.log", codec=True)
    async with running as stack, browser() as page:
        asked = request()
        _, outcome = await rotate(stack.client, asked, task_queue="keyturn", wait_seconds=60)
        assert isinstance(outcome, JobCreated)
        history = stack.history_url(id_of(asked))
        await opened(page, history)
        await shows(page, "Codec Server could not connect")
        await until(page, f"{PAGE}.length > 500")
        assert QUESTION not in await page.inner_text("body")
        assert asked.account_id not in await page.inner_text("body")

        await page.goto(str(stack.codec))
        await sign_in(page, "a" * 43)
        await shows(page, "No operator has this token")
        await sign_in(page, (tmp_path / "codec_token").read_text())
        await shows(page, "Signed in")

        await opened(page, history)
        await shows(page, "Event History")
        await include_credentials(page, str(stack.codec))
        await opened(page, history)
        await until(page, f"{PAGE}.includes({json.dumps(QUESTION)})")
        await until(page, f"{PAGE}.includes('job_created')")
        await shows(page, "create the one job, due in 30 days under P-7@1")  # a summary, which is encrypted too
        assert "could not connect" not in await page.inner_text("body")
    log = (tmp_path / "codec.log").read_text()
    assert '"operator": "operator", "by": "cookie"' in log
    assert QUESTION not in log
