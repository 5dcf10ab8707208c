"""The report of a large run as its readers open it: on a desk, on a phone in the dark, and on paper."""

from datetime import timedelta
from pathlib import Path

import pytest

from keyturn.bulk.report_page import render_page
from keyturn.policy.catalogue import Catalogue
from keyturn.starter.report import NoBrowser, print_pdf
from tests.keyturn.test_report import LINE, NOW, findings_of, item, quiet, run_of
from tests.support.browser import CHROMIUM, browser, faults_of_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium (.ci/run does)")


@pytest.fixture(scope="module")
def page(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 5,000 keys, most of them overdue."""
    lines = [catalogue.current(LINE), catalogue.current("P-7")]
    items = [item(n, rotate_by=NOW - timedelta(days=n % 97), age_days=91 + n % 300) for n in range(1, 4_000)]
    items += [quiet(n) for n in range(4_000, 5_001)]
    items += [item(6_001, compromised=True), item(6_002, outcome="disagreement", job_id=None, job_state=None)]
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render_page(run_of(lines), findings_of(lines, items), facts=[("Run", "run-1")]))
    return file


@pytest.mark.parametrize(
    ("width", "scheme", "tallest"), [(1400, "light", 8_000), (360, "dark", 20_000)], ids=["desk", "phone"]
)
async def test_it_fits_the_screen_and_keeps_no_reader_out(page: Path, width: int, scheme: str, tallest: int) -> None:
    """Nothing is wider than the screen, and it is no scroll of a kilometre."""
    async with browser(viewport={"width": width, "height": 800}, color_scheme=scheme) as opened:
        await opened.goto(page.as_uri())
        assert await opened.evaluate("document.documentElement.scrollWidth") <= width
        assert await opened.evaluate("document.documentElement.scrollHeight") < tallest
        assert await faults_of_page(opened) == []
        assert await opened.inner_text("#compromised h2") == "Compromised: 1"


def test_it_is_printed_by_chromium(page: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.pdf"
    print_pdf(page.read_text(), file)
    assert file.read_bytes().startswith(b"%PDF-")


def test_where_no_chromium_is_installed_that_is_said(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoBrowser, match="no Chromium is installed"):
        print_pdf("<p>", tmp_path / "report.pdf")
