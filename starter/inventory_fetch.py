"""`keyturn inventory fetch`."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from keyturn.console import counted
from keyturn.options import FetcherName


@click.command()
@click.option("--from", "source", type=FetcherName(), required=True, help="Cloud whose keys are read.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File of the snapshot; OUT.json beside it is its manifest.",
)
@click.option("--allow-missing", is_flag=True, help="Leave out what cannot be read; the manifest names it.")
@click.option("--expect-fewer", is_flag=True, help="Accept over a fifth fewer keys than in the file that is there.")
@click.option("--restart", is_flag=True, help="Read everything again, whatever an earlier attempt has read.")
def fetch(source: str, out: Path, allow_missing: bool, expect_fewer: bool, restart: bool) -> None:
    """Read the keys of a cloud into one snapshot, which check, bulk and report read.

    Accounts, projects and credentials are those of the executor's settings; only rights to read are needed. If it is
    interrupted, the same command resumes it. The digest that it prints is the snapshot's SHA-256.

    \b
    Example:
      keyturn inventory fetch --from aws --out keys.jsonl
      keyturn inventory check keys.jsonl --policy CIS-AWS-4.0-1.14
    """
    from keyturn.snapshots.fetch import THREADS, fetch_snapshot
    from keyturn.snapshots.fetchers import load_fetchers
    from keyturn.snapshots.publish import Manifest, manifest_of

    fetcher = load_fetchers()[source]

    async def run() -> Manifest:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="fetch"))
        return await fetch_snapshot(
            fetcher,
            out,
            allow_missing=allow_missing,
            expect_fewer=expect_fewer,
            restart=restart,
            report=lambda line: click.echo(line, err=True),
        )

    try:
        made = asyncio.run(run())
    except ModuleNotFoundError as error:
        if not fetcher.extra or (error.name or "").startswith("keyturn"):
            raise
        raise click.ClickException(f"{source} needs the extra: pip install 'keyturn[{fetcher.extra}]'") from None
    click.echo(f"{out}: {counted(made.keys, 'key')} of {counted(made.parts, fetcher.part)}")
    click.echo(f"sha256 {made.sha256}")
    for name, reason in made.missing.items():
        click.echo(f"missing: {name}: {reason}", err=True)
    for note, times in made.notes.items():
        click.echo(f"note: {note} ({counted(times, fetcher.part)})", err=True)
    if made.younger:
        click.echo(f"{counted(made.younger, 'key')} left out: created since the fetch was started", err=True)
    if made.unusable_owners:
        unusable = (
            "without an owner: the tag is longer than 64 characters, or has others than letters, digits, . _ @ + = / -"
        )
        click.echo(f"{counted(made.unusable_owners, 'key')} {unusable}", err=True)
    if made.missing:
        click.echo(f"{manifest_of(out)} names what is missing", err=True)
