"""`keyturn report`."""

import asyncio
import csv
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyturn.errors import KeyturnError
from keyturn.starter.database import with_database
from keyturn.starter.inventory_options import for_tenant

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from keyturn.bulk.comparison import Comparison
    from keyturn.bulk.findings import Finding, Findings

_file = click.Path(path_type=Path, dir_okay=False)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PRINT_SECONDS = 120.0  # some thousand rows take seconds; a browser that hangs is ended


@dataclass(frozen=True)
class Files:
    """Where the forms of a report go; None leaves one out."""

    html: Path | None
    pdf: Path | None
    table: Path | None
    lines: Path | None
    sarif: Path | None


class NoBrowser(KeyturnError):
    """A PDF is printed by Chromium, and none is installed or works."""

    kind = "no_browser"
    hint = "Install Chromium (on Debian and Ubuntu: apt install chromium), or print the page of --html from a browser."


@click.command()
@click.argument("run_id")
@click.option("--html", type=_file, help="Write one self-contained page.")
@click.option("--pdf", type=_file, help="Write the page as PDF, by Chromium.")
@click.option("--csv", "table", type=_file, help="Write every row as CSV.")
@click.option("--json", "lines", type=_file, help="Write every row as JSON Lines (docs/schemas/report_row.json).")
@click.option("--sarif", type=_file, help="Write the findings as SARIF 2.1.0.")
@click.option(
    "--key-map",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Key map that names the keys' owners.  [default: KEYTURN_KEY_MAP, then KEYTURN_OWNERS]",
)
@click.option("--since", metavar="RUN_ID", help="Compare with an earlier run: what is new, gone and still due.")
@for_tenant
def report(run_id: str, tenant: str, since: str | None, key_map: Path | None, **files: Path | None) -> None:
    """Report on a bulk run: what must be done, what was done, and what is next; what was looked at; and how.

    Without a file, the figures are printed. A report may be written while the run continues.

    \b
    Example:
      keyturn report run-0f3c9a7d5e1b2c44 --html report.html --csv report.csv
      keyturn report run-0f3c9a7d5e1b2c44 --since run-9c1d2e3f4a5b6c7d --pdf report.pdf
    """
    wanted = Files(**files)
    with_database(lambda engine: _report(engine, run_id, tenant, since, key_map, wanted))
    for file in files.values():
        if file is not None:
            click.echo(f"written to {file}", err=True)


async def _report(
    engine: "AsyncEngine", run_id: str, tenant: str, since: str | None, key_map: Path | None, files: Files
) -> None:
    from keyturn.bulk.comparison import compare, statuses_of
    from keyturn.bulk.findings import Findings
    from keyturn.bulk.report import items_of_run
    from keyturn.bulk.report_page import ROWS_SHOWN, method_of, render_page
    from keyturn.bulk.store import BulkStore
    from keyturn.execution.mapping import load_key_map
    from keyturn.jobs.listing import JobListing
    from keyturn.keyring_files import keyring_from_environment
    from keyturn.owners import Owners, load_owners
    from keyturn.policy.errors import UnknownPolicyLine
    from keyturn.workers.bulk import run_encryption
    from keyturn.workers.local_settings import load_local_settings

    store, jobs = BulkStore(engine), JobListing(engine)
    decrypt = run_encryption(keyring_from_environment()).decrypt
    run = await store.run(run_id, tenant_id=tenant)
    await store.update_job_outcomes(run_id, tenant_id=tenant)  # what waited when the run ended may have its job since
    catalogue = load_local_settings().load_catalogue()
    try:
        judged = list(catalogue.resolve(run.policy_lines))
    except UnknownPolicyLine as error:  # the figures are stored; only wordings are missing here
        click.echo(f"{error}: the report has no wording of what is not there", err=True)
        judged = [line for line in catalogue if line.ref in run.policy_lines]
    owners = load_owners() if key_map is None else Owners(load_key_map(key_map))
    known = bool(owners.names) or await store.names_owners(run_id)
    findings = Findings(judged, datetime.now(UTC), most=ROWS_SHOWN, owner_of=owners.owner_of, owners_known=known)
    comparison = None
    if since is not None:
        earlier = await store.run(since, tenant_id=tenant)
        before = await statuses_of(items_of_run(store, earlier, decrypt, jobs=jobs))
        comparison = compare(earlier, before, run, await statuses_of(items_of_run(store, run, decrypt, jobs=jobs)))
        for remark in comparison.remarks:
            click.echo(remark, err=True)
    found = _written(items_of_run(store, run, decrypt, jobs=jobs), findings, comparison, files)
    if files.sarif is not None:
        from keyturn.bulk.sarif import write_sarif

        with files.sarif.open("w", encoding="utf-8") as opened:
            await write_sarif(found, run, judged, opened.write, version=version("keyturn"))
    else:
        async for _ in found:
            pass
    facts = method_of(run, findings)
    if files.html is not None or files.pdf is not None:
        page = render_page(run, findings, facts=facts, comparison=comparison)
        if files.html is not None:
            await asyncio.to_thread(files.html.write_text, page, encoding="utf-8")
        if files.pdf is not None:
            await asyncio.to_thread(print_pdf, page, files.pdf)
    if not any(vars(files).values()):
        _print_figures(findings, comparison)


async def _written(
    items: AsyncIterator[dict[str, Any]], findings: "Findings", comparison: "Comparison | None", files: Files
) -> AsyncIterator["Finding"]:
    """Count every item and write its row to the files that want rows; yield what is found."""
    from keyturn.bulk.report import COLUMNS, ReportRow
    from keyturn.inventory.cells import escape_formula

    with ExitStack() as opened:
        rows = None
        if files.table is not None:
            rows = csv.DictWriter(opened.enter_context(files.table.open("w", encoding="utf-8", newline="")), COLUMNS)
            rows.writeheader()
        objects = None if files.lines is None else opened.enter_context(files.lines.open("w", encoding="utf-8"))
        async for item in items:
            item["since"] = None if comparison is None else comparison.since(item["account_id"], item["key_id"])
            found = findings.add(item)
            if found is not None:
                item |= {"severity": found.severity, "overdue_days": found.overdue_days}
                item |= {"done": found.done, "next": found.following}
            if rows is not None:
                lists = {name: " ".join(item[name] or ()) for name in ("policy_lines", "record_ids")}
                rows.writerow({name: escape_formula(value) for name, value in (item | lists).items()})
            if objects is not None:
                objects.write(ReportRow.model_validate(item).model_dump_json() + "\n")
            if found is not None:
                yield found


def _print_figures(findings: "Findings", comparison: Any) -> None:
    from keyturn.bulk.findings import SEVERITIES
    from keyturn.bulk.report_page import TITLES, summary_of
    from keyturn.progress import outcome_in_words

    click.echo(summary_of(findings, comparison))
    for severity in SEVERITIES:
        if findings.counts[severity]:
            click.echo(f"{findings.counts[severity]:>9,}  {TITLES[severity].lower()}")
    for (outcome, reason), count in findings.quiet.most_common():
        why = f": {reason.replace('_', ' ')}" if reason else ""
        click.echo(f"{count:>9,}  {outcome_in_words(outcome, count)}{why}")
    figures = findings.figures
    by_rule = figures.decided_by["rule"]
    click.echo(f"{by_rule:,} of {findings.total:,} needed no model; the calls cost ${figures.cost_usd:,.4f}")


def print_pdf(page: str, file: Path) -> None:
    """Print the page by Chromium; raises NoBrowser."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise NoBrowser("no Chromium is installed here")
    with tempfile.TemporaryDirectory(prefix="keyturn-report-") as folder:
        written = Path(folder) / "report.html"
        written.write_text(page, encoding="utf-8")
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-pdf-header-footer",
            f"--user-data-dir={folder}/profile",
        ]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
        printed = Path(folder) / "report.pdf"
        command += [f"--print-to-pdf={printed}", written.as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PRINT_SECONDS, check=False)  # noqa: S603 - ours
        except subprocess.TimeoutExpired:
            raise NoBrowser(f"{browser} did not print within {PRINT_SECONDS:g} s") from None
        if done.returncode or not printed.exists():
            raise NoBrowser(f"{browser} did not print: status {done.returncode}")
        shutil.copyfile(printed, file)
