"""Fetch a snapshot: read the parts that are missing, some at once, and put all of them together."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from keyturn.errors import KeyturnError, SettingsInvalid
from keyturn.execution.errors import CloudRefused, CloudUnavailable, CredentialsMissing
from keyturn.settings import field_faults
from keyturn.snapshots.attempts import Places, all_of
from keyturn.snapshots.errors import (
    CloudAnswerInvalid,
    CursorInvalid,
    SnapshotEmpty,
    SnapshotIncomplete,
    SnapshotSmaller,
    SnapshotUnwritable,
)
from keyturn.snapshots.fetcher import Cloud, Fetcher, Page, Part
from keyturn.snapshots.parts import PartsFolder, Plan, StoredPage, dumped, is_resumable, now, plan_of
from keyturn.snapshots.publish import Manifest, expect_same_source, publish

# Clouds limit calls by account or project, so parts do not slow each other down; a machine of two cores keeps up with
# the answers of some 16 calls at once, two of each part.
PARTS_AT_ONCE = 8
# Threads for the clouds whose libraries block, AWS's and Google's and Microsoft's sign-in: none waits for another.
THREADS = 4 * PARTS_AT_ONCE
# A listing that loses its place again and again changes faster than it is read.
RESTARTS_A_PART = 3
LINES = 20  # of progress: a cluster may have thousands of namespaces
NAMED_PARTS = 50  # in a message; the rest is counted
_NAME = re.compile(r"[!-~]{1,256}")  # as every cloud's accounts, projects, tenants and namespaces are called

Report = Callable[[str], None]


class _Failure(NamedTuple):
    part: str
    reason: str


async def fetch_snapshot(
    fetcher: Fetcher,
    out: Path,
    *,
    allow_missing: bool = False,
    expect_fewer: bool = False,
    restart: bool = False,
    report: Report = lambda line: None,
) -> Manifest:
    """Read the keys of a cloud into `out`, and return its manifest.

    A fetch that was not completed is resumed. Of an inventory that did not change meanwhile, it yields the same bytes.

    Args:
        fetcher: of the cloud.
        out: the snapshot; the file that is there is replaced at the end.
        allow_missing: whether parts that cannot be read may be left out.
        expect_fewer: whether there may be over a fifth fewer keys than in the file that is there.
        restart: whether what was read before is forgotten.
        report: gets lines for the user.

    Raises:
        SnapshotIncomplete: nothing was written, and what was read is kept for the next attempt.
        SnapshotSmaller: nothing was written, and what was read is kept for one that expects fewer.
        SnapshotEmpty: nothing was written.
        SnapshotUnwritable: the disk is full, or the folder may not be written.
        AnotherSnapshot: the file that is there is of another cloud.
        FetchRunning: another process is at it.
        KeyturnError: the parts cannot be listed.
    """
    expect_same_source(out, fetcher.name)
    settings = _settings_of(fetcher)
    cloud, parts = fetcher.open(), PartsFolder(out)
    try:
        plan = await _planned(
            fetcher, settings, cloud, parts, restart=restart, expect_fewer=expect_fewer, report=report
        )
        pages, failures = await _read_all(cloud, parts, plan, report)
        if failures and not allow_missing:
            raise SnapshotIncomplete(_in_words(fetcher, plan, failures))
        made = _published(out, plan, pages, failures, parts, expect_fewer=expect_fewer)
        parts.remove()
    finally:
        parts.close()
        await cloud.close()
    return made


def _published(
    out: Path,
    plan: Plan,
    pages: list[StoredPage],
    failures: list[_Failure],
    parts: PartsFolder,
    *,
    expect_fewer: bool,
) -> Manifest:
    missing = {failure.part: failure.reason for failure in failures}
    finished_at = now().replace(microsecond=0)
    try:
        return publish(out, plan, pages, missing, finished_at=finished_at, expect_fewer=expect_fewer)
    except SnapshotSmaller:
        parts.refuse(plan)
        raise
    except SnapshotEmpty:
        parts.remove()
        raise


async def _planned(
    fetcher: Fetcher,
    settings: str,
    cloud: Cloud,
    parts: PartsFolder,
    *,
    restart: bool,
    expect_fewer: bool,
    report: Report,
) -> Plan:
    """Return the plan of the fetch that is resumed, or a new one."""
    before, wanted = parts.plan(), plan_of(fetcher.name, settings, (), now())
    if before is not None and not restart:
        if before.refused and not expect_fewer:
            report("what was read before had far fewer keys: everything is read again (--expect-fewer accepts it)")
        elif is_resumable(before, wanted):
            report(f"resuming the fetch of {before.started_at:%Y-%m-%d %H:%M:%S} UTC")
            return before
        else:
            report("what was read before has other settings, or is over 12 hours old: everything is read again")
    try:
        listed = tuple(dict.fromkeys(await cloud.parts()))  # a listing that changes may have one on two pages
    except (CloudRefused, CloudUnavailable) as error:
        if isinstance(error, CredentialsMissing):
            raise
        raise SnapshotIncomplete(f"the {fetcher.part}s could not be listed: {error}") from None
    if not all(_NAME.fullmatch(part.name) for part in listed):
        raise CloudAnswerInvalid(f"a {fetcher.part} has a name that no terminal may show")
    plan = wanted.model_copy(update={"parts": listed})
    parts.start(plan)
    return plan


async def _read_all(
    cloud: Cloud, parts: PartsFolder, plan: Plan, report: Report
) -> tuple[list[StoredPage], list[_Failure]]:
    at_once = asyncio.Semaphore(PARTS_AT_ONCE)
    done = 0

    async def read(number: int, part: Part) -> list[StoredPage] | _Failure:
        nonlocal done
        async with at_once:
            try:
                return await _read_part(cloud, parts, plan, number, part)
            except SnapshotUnwritable:
                raise
            except KeyturnError as error:
                return _Failure(part.name, str(error))
            finally:
                done += 1
                if done % max(len(plan.parts) // LINES, 1) == 0:
                    report(f"{done:,} of {len(plan.parts):,} read")

    # What is raised is no failure of a cloud: a disk that is full ends the fetch.
    found = await all_of(read(number, part) for number, part in enumerate(plan.parts, 1))
    pages = [page for one in found if not isinstance(one, _Failure) for page in one]
    return pages, [one for one in found if isinstance(one, _Failure)]


async def _read_part(cloud: Cloud, parts: PartsFolder, plan: Plan, number: int, part: Part) -> list[StoredPage]:
    pages: list[StoredPage] = []
    cursor, restarts, read_here, places = "", 0, False, Places()
    while True:
        stored = None if read_here else parts.stored(number, len(pages) + 1, part, cursor)
        if stored is None:
            # What follows on the disk is of a listing that this one does not continue.
            read_here = True
            try:
                read = await _read_page(cloud, part, cursor, plan)
            except CursorInvalid:
                restarts += 1
                if restarts > RESTARTS_A_PART:
                    raise
                pages, cursor, places = [], "", Places()
                continue
            stored = parts.store(number, len(pages) + 1, part, cursor, read)
        pages.append(stored)
        if not stored.next_cursor:
            return pages
        cursor = places.pass_by(stored.next_cursor)


async def _read_page(cloud: Cloud, part: Part, cursor: str, plan: Plan) -> Page:
    fault = ""
    try:
        return await cloud.read(part, cursor, plan.started_at)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # One answer that is no answer is not to end the fetch of all others. Its text may be the answer's own.
        fault = type(error).__name__
    raise CloudAnswerInvalid(f"an answer cannot be read ({fault})")


def _settings_of(fetcher: Fetcher) -> str:
    try:
        return dumped(fetcher.settings()())
    except ValidationError as error:
        faults = field_faults(error)
    raise SettingsInvalid("\n".join(faults))


def _in_words(fetcher: Fetcher, plan: Plan, failures: list[_Failure]) -> str:
    lines = [f"  {failure.part}: {failure.reason}" for failure in failures[:NAMED_PARTS]]
    more = [f"  and {len(failures) - NAMED_PARTS:,} more"] if len(failures) > NAMED_PARTS else []
    head = f"{len(failures):,} of {len(plan.parts):,} {fetcher.part}s could not be read:"
    return "\n".join([head, *lines, *more])
