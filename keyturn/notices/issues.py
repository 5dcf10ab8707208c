"""Issues in trackers: one for each job, opened by its first notice, which takes the later ones and is closed with it.

A notice about a rotation that has no job yet has an issue by its workflow, one about neither an issue of its own: an
approval or a parked rotation is as much work for someone as a job is, and a route that sends it to a tracker asks for
that. Such an issue is closed in the tracker, by whoever did the work: no notice says that it is done.

Trackers know no idempotency key. What is to be written is therefore first written to `IssueStore`. A request whose
answer was lost is looked for in the tracker before it is repeated, and not before the tracker would show it: until
then the delivery waits, as it does for a receiver that is away.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.contracts import UNOWNED
from keyturn.jobs.errors import ReceiverRefused, ReceiverUnavailable
from keyturn.moments import in_utc
from keyturn.notices.contracts import CLOSING, Notice, NoticeMessage
from keyturn.notices.errors import IssueGone
from keyturn.notices.issue_store import CLOSE, Issue, IssueStore
from keyturn.notices.wording import link, sentence

# The activity has 30 s for one attempt. What was answered until then is recorded, and the next attempt goes on there.
SEND_WITHIN = 20.0
# A notice's facts may be 8,000 letters; a work note of ServiceNow has 4,000 unless an instance says more.
MAX_TEXT = 3_000
MAX_TITLE = 160  # of ServiceNow's short description; Jira takes 255
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PLAIN_EVENT = re.compile(r"[A-Za-z0-9._:-]{1,100}")

T = TypeVar("T")


class IssueText(NamedTuple):
    """What is written to a tracker, in plain text.

    Attributes:
        title: what the issue is about, in one line.
        lines: what happened, a line each.
        url: the desk's page; None without a desk.
        marker: the line by which the text is recognized; no fact can contain it, for a fact is a part of a line.
    """

    title: str
    lines: tuple[str, ...]
    url: str | None
    marker: str


class Lags(NamedTuple):
    """How long after a request was begun a tracker surely shows what it wrote.

    Attributes:
        issue: a new issue, in the search.
        note: a comment, in its issue.
    """

    issue: timedelta
    note: timedelta


class Tracker(Protocol):
    """A tracker's API. Every method raises a DeliveryError; those on an issue raise IssueGone if it is not there."""

    service: str
    looks_first: bool  # whether its search is exact, so that it is asked before each creation

    async def find(self, address: str, about: str) -> str | None:
        """Return the ID of the oldest issue that was opened about something; None if the search shows none."""
        ...

    async def open(self, address: str, about: str, text: IssueText) -> str:
        """Open an issue; returns its ID."""
        ...

    async def has_note(self, issue_id: str, marker: str) -> bool:
        """Whether a note whose marker this is was added to an issue."""
        ...

    async def add_note(self, issue_id: str, text: IssueText) -> None:
        """Add a note to an issue."""
        ...

    async def close(self, issue_id: str, text: IssueText) -> None:
        """Close an issue, unless it is closed."""
        ...

    def preview(self, address: str, about: str, text: IssueText) -> Mapping[str, Any]:
        """Return the body that opens an issue, without secrets."""
        ...


class IssueNotifier:
    """Brings notices into a tracker's issues; see `Notifier`.

    Args:
        channel: the channel's name.
        tracker: its API.
        engine: the database, which remembers the issues.
        lags: when the tracker shows what was written.
    """

    def __init__(self, channel: str, tracker: Tracker, engine: AsyncEngine, lags: Lags) -> None:
        self._channel, self._tracker, self._lags = channel, tracker, lags
        self._store = IssueStore(engine)

    async def send(self, address: str, message: NoticeMessage, *, desk: str | None) -> str:
        """Bring the message's notices into their issues, each once; see `Notifier`."""
        try:
            async with asyncio.timeout(SEND_WITHIN):
                for notice in message.notices:
                    await self._bring(address, notice, text_of(notice, desk))
        except TimeoutError:
            raise ReceiverUnavailable(f"{self._tracker.service} did not answer in time") from None
        return "taken"

    def preview(self, address: str, message: NoticeMessage, *, desk: str | None) -> Mapping[str, Any]:
        """Return what would open an issue for the first notice."""
        notice = message.notices[0]
        return self._tracker.preview(address, about_of(notice), text_of(notice, desk))

    async def _bring(self, address: str, notice: Notice, text: IssueText) -> None:
        destination = f"{self._channel}:{address}"
        issue = await self._store.load(Issue(notice.tenant_id, destination, about_of(notice), notice.job_id))
        try:
            if issue.issue_id is None:
                issue = await self._open(address, issue, notice, text)
            if issue.issue_id is not None and not issue.has(notice.event_id):
                issue = await self._note(issue.issue_id, issue, notice, text)
            if issue.issue_id is not None and notice.topic in CLOSING and not issue.has(CLOSE):
                await self._close(issue.issue_id, issue, text)
        except IssueGone:
            # As it was before: what the failed request had begun is a part of it, and is taken back here.
            now = await self._store.load(issue)
            await self._store.forget(now, notice.event_id)
            raise

    async def _open(self, address: str, issue: Issue, notice: Notice, text: IssueText) -> Issue:
        if issue.intended_at is not None:
            self._expect_shown(issue.intended_at, self._lags.issue)
        if issue.intended_at is not None or self._tracker.looks_first:
            found = await self._tracker.find(address, issue.about)
            if found is not None:
                return await self._store.adopt(issue, found)
        if notice.topic in CLOSING:
            return issue  # none was opened: what ends well needs none, as where a route takes warnings only
        begun = await self._store.begin(issue, notice.event_id, creates=True)
        issue_id = await self._attempt(begun, notice.event_id, self._tracker.open(address, issue.about, text))
        return await self._store.record(begun, notice.event_id, issue_id=issue_id)

    async def _note(self, issue_id: str, issue: Issue, notice: Notice, text: IssueText) -> Issue:
        tried = issue.tried_at(notice.event_id)
        if tried is not None:
            self._expect_shown(tried, self._lags.note)
            if await self._tracker.has_note(issue_id, text.marker):
                return await self._store.record(issue, notice.event_id)
        begun = await self._store.begin(issue, notice.event_id)
        await self._attempt(begun, notice.event_id, self._tracker.add_note(issue_id, text))
        return await self._store.record(begun, notice.event_id)

    async def _close(self, issue_id: str, issue: Issue, text: IssueText) -> None:
        tried = issue.tried_at(CLOSE)
        if tried is not None:
            self._expect_shown(tried, self._lags.note)
        begun = await self._store.begin(issue, CLOSE)
        await self._attempt(begun, CLOSE, self._tracker.close(issue_id, text))
        await self._store.record(begun, CLOSE)

    async def _attempt(self, begun: Issue, event_id: str, request: Awaitable[T]) -> T:
        """Return what a request that writes returns; one that had no effect for sure need not be looked for."""
        try:
            return await request
        except ReceiverRefused:
            await self._store.withdraw(begun, event_id)
            raise
        except ReceiverUnavailable as error:
            if error.took_nothing:
                await self._store.withdraw(begun, event_id)
            raise

    def _expect_shown(self, begun: datetime, lag: timedelta) -> None:
        """Raise ReceiverUnavailable as long as the tracker may not show yet what a request wrote."""
        # By this worker's clock and that of the one that began it: lags are longer than clocks differ.
        wait = begun + lag - datetime.now(UTC)
        if wait > timedelta(0):
            service = self._tracker.service
            raise ReceiverUnavailable(f"{service}'s answer was lost: it is asked later what it took", retry_after=wait)


def about_of(notice: Notice) -> str:
    """Return what a notice's issue is found by: the job's ID, or a digest; letters that no query needs to quote."""
    if notice.job_id is not None and _PLAIN_ID.fullmatch(notice.job_id):
        return notice.job_id
    about = notice.job_id or notice.workflow_id or notice.event_id
    return f"keyturn-{hashlib.sha256(f'{notice.tenant_id} {about}'.encode()).hexdigest()[:40]}"


def text_of(notice: Notice, desk: str | None) -> IssueText:
    """Return what is written to the issue of a notice."""
    event = notice.event_id
    if not _PLAIN_EVENT.fullmatch(event):
        event = hashlib.sha256(event.encode()).hexdigest()[:40]
    said = sentence(notice)
    title = f"Rotate {notice.key_id} of {notice.account_id}" if notice.job_id else said
    lines = (f"{in_utc(notice.at)}  {said}"[:MAX_TEXT], f"Owner: {notice.owner or UNOWNED}")
    return IssueText(title[:MAX_TITLE], lines, link(notice, desk), f"[keyturn {event}]")
