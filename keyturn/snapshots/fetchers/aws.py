"""AWS: the access keys of each account, with the fewest calls that say what a policy asks.

- the credential report: users, creation, last use and state of their keys, but no key ID (a report serves four hours)
- GetAccountAuthorizationDetails: the tags of all users, a page of them at once
- ListAccessKeys, for each user that has keys by the report: the IDs

The accounts, the role in each and the external ID are the executor's settings (`keyturn/executors/aws/accounts.py`).
Root's keys are in no list: they are named by their creation, as an inventory without key IDs names them.

https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_getting-report.html
"""

from __future__ import annotations

import asyncio
import csv
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_settings import BaseSettings

from keyturn.execution.errors import CloudRefused, CloudUnavailable, UserGone
from keyturn.inventory.rows import RowFault
from keyturn.inventory.sources.aws import ROOT, USE_IS_KNOWN_SINCE, report_moment
from keyturn.snapshots.attempts import Places, all_of, repeated
from keyturn.snapshots.fetcher import Fetcher, Page, Part
from keyturn.snapshots.rows import Rows, owner_in, tags_of

if TYPE_CHECKING:
    from keyturn.executors.aws.accounts import AwsAccountSettings

SOURCE = "aws-iam"
# IAM throttles an account at some twenty calls a second, as its users report: two at once stay at about that.
CALLS_AT_ONCE = 2
# A report is made within seconds, of a large account within minutes: twenty looks take four on average.
REPORT_ATTEMPTS = 20
REPORT_SECONDS = timedelta(seconds=1)
_REPORT_STATES = {"ReportInProgress", "ReportNotPresent", "ReportExpired"}
USERS_A_PAGE = 200  # with each user's inline policies, some hundred kilobytes; IAM takes a thousand, and cuts it itself


class _Key(NamedTuple):
    """A key as the report has it: without its ID."""

    user: str
    arn: str
    created_at: datetime
    is_active: bool
    last_used_at: datetime | None
    never_used: bool


class AwsCloud:
    """The access keys of the accounts that are set; `settings` are arguments of boto3's clients, for tests."""

    def __init__(self, **settings: Any) -> None:
        from keyturn.executors.aws.accounts import aws_account_settings

        self._chosen: AwsAccountSettings = aws_account_settings()
        self._settings = settings

    async def parts(self) -> Sequence[Part]:
        """Return the accounts, by their numbers."""
        from keyturn.aws import ONE_TRY, ask, client_of
        from keyturn.executors.aws.accounts import account_numbers

        if self._chosen.accounts:
            numbers = await repeated(lambda: asyncio.to_thread(account_numbers, self._chosen, **self._settings))
        else:
            sts = client_of("sts", {"config": ONE_TRY} | self._settings)
            numbers = [str((await repeated(lambda: ask(sts.get_caller_identity)))["Account"])]
        return [Part(number) for number in sorted(numbers)]

    async def read(self, part: Part, cursor: str, observed_at: datetime) -> Page:
        """Return all keys of an account."""
        iam = await asyncio.to_thread(self._client, part.name)
        keys, made_at = await _report(iam)
        owners = await _owners(iam) if keys else {}
        if any(key.arn.split(":")[4:5] != [part.name] for key in keys):
            raise CloudRefused("the credentials are of another account than when this fetch was started")
        rows, users = Rows(observed_at, SOURCE), dict[str, list[_Key]]()
        for key in keys:
            if key.user == ROOT:
                # As CredentialFacts names a key by its creation.
                _add(rows, key, f"access_key.{key.created_at.astimezone(UTC):%Y%m%dT%H%M%SZ}", made_at)
            else:
                users.setdefault(key.user, []).append(key)
        at_once = asyncio.Semaphore(CALLS_AT_ONCE)

        async def add(user: str, reported: list[_Key]) -> None:
            async with at_once:
                listed = await _listed(iam, user)
            for entry in listed:
                _add_listed(rows, entry, reported, made_at, owners.get(user, ""))

        await all_of(add(user, reported) for user, reported in users.items())
        return Page(rows)

    async def close(self) -> None:
        """Do nothing: boto3's connections close with their clients."""

    def _client(self, number: str) -> Any:
        from keyturn.aws import MAKING, ONE_TRY, ask_now, client_of
        from keyturn.executors.aws.accounts import session_in, without_credentials

        if not self._chosen.accounts:
            return client_of("iam", {"config": ONE_TRY} | self._settings)
        with MAKING:
            session = ask_now(lambda: session_in(number, self._chosen, **self._settings))
        return client_of("iam", {"config": ONE_TRY} | without_credentials(self._settings), session)


async def _report(iam: Any) -> tuple[list[_Key], datetime]:
    """Return the keys of the account's credential report, and when that was made."""
    from keyturn.aws import ask

    async def once() -> Any:
        state = (await ask(iam.generate_credential_report, passing={"LimitExceeded"}))["State"]
        if state != "COMPLETE":  # STARTED or INPROGRESS
            raise CloudUnavailable("GenerateCredentialReport: it is not complete", retry_after=REPORT_SECONDS)
        return await ask(iam.get_credential_report, passing=_REPORT_STATES)

    found = await repeated(once, attempts=REPORT_ATTEMPTS)
    try:
        text = found["Content"].decode()
        return [key for row in csv.DictReader(io.StringIO(text)) for key in _keys_in(row)], found["GeneratedTime"]
    except (UnicodeDecodeError, KeyError, AttributeError, TypeError, RowFault):  # a row that is too short has None
        raise CloudRefused("GetCredentialReport: the report cannot be read") from None


def _keys_in(row: Mapping[str, str]) -> Iterator[_Key]:
    """Yield the keys of a user, none to two; a key that is inactive has its dates as well."""
    for slot in ("access_key_1", "access_key_2"):
        created_at = report_moment(slot, row[f"{slot}_last_rotated"])
        if created_at is None:
            continue
        used, is_active = row[f"{slot}_last_used_date"], row[f"{slot}_active"].lower() == "true"
        never = used in {"N/A", "n/a"} and created_at >= USE_IS_KNOWN_SINCE
        yield _Key(row["user"], row["arn"], created_at, is_active, report_moment(slot, used), never)


async def _owners(iam: Any) -> dict[str, str]:
    """Return the owners of users by their tags."""
    from keyturn.aws import ask

    found: dict[str, str] = {}
    asked: dict[str, Any] = {"Filter": ["User"], "MaxItems": USERS_A_PAGE}
    places = Places()
    while True:
        get = functools.partial(iam.get_account_authorization_details, **asked)
        page = await repeated(functools.partial(ask, get))
        found |= {user["UserName"]: owner_in(tags_of(user.get("Tags", ()))) for user in page["UserDetailList"]}
        if not page.get("IsTruncated"):
            return found
        asked["Marker"] = places.pass_by(page["Marker"])


async def _listed(iam: Any, user: str) -> list[Mapping[str, Any]]:
    """Return a user's keys; none if the user was deleted since the report."""
    from keyturn.aws import ask

    found: list[Mapping[str, Any]] = []
    asked: dict[str, Any] = {"UserName": user}
    places = Places()
    while True:
        try:
            page = await repeated(functools.partial(ask, functools.partial(iam.list_access_keys, **asked)))
        except UserGone:
            return []
        found += page["AccessKeyMetadata"]
        if not page.get("IsTruncated"):
            return found
        asked["Marker"] = places.pass_by(page["Marker"])


def _add_listed(rows: Rows, entry: Mapping[str, Any], reported: Sequence[_Key], made_at: datetime, owner: str) -> None:
    """Add a key of the list, with its use by the report: that joins by the second of creation."""
    created_at, is_active = entry["CreateDate"], entry["Status"] == "Active"
    found = [key for key in reported if key.created_at == created_at.replace(microsecond=0)]
    if len(found) == 1:
        _add(rows, found[0]._replace(is_active=is_active), entry["AccessKeyId"], made_at, owner)
        return
    # Created since the report, or two within a second: nothing is known of its use.
    unknown = _Key(reported[0].user, reported[0].arn, created_at, is_active, None, False)
    _add(rows, unknown, entry["AccessKeyId"], None, owner)


def _add(rows: Rows, key: _Key, key_id: str, made_at: datetime | None, owner: str = "") -> None:
    rows.add(
        key.arn,
        key_id,
        kind="access_key",
        created_at=key.created_at,
        last_used_at=key.last_used_at,
        never_used=key.never_used,
        is_active=key.is_active,
        owner=owner,
        observed_at=made_at,
    )


def _settings() -> type[BaseSettings]:
    from keyturn.executors.aws.accounts import AwsAccountSettings

    return AwsAccountSettings


FETCHER = Fetcher("aws", part="account", open=AwsCloud, settings=_settings, extra="aws")
