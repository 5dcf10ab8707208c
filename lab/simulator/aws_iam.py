"""IAM and STS of many AWS accounts on loopback, as far as reading an inventory needs them.

Written from the API references of IAM (GenerateCredentialReport, GetCredentialReport, GetAccountAuthorizationDetails,
ListAccessKeys) and STS (AssumeRole, GetCallerIdentity), and the user guide's page on credential reports; what moto
lacks is here: pages, throttling, a report's states, and an external ID that is checked. No real cloud was called.
"""

import asyncio
import base64
import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from aiohttp import web

START = datetime(2026, 1, 1, tzinfo=UTC)
_USER = "user,arn,user_creation_time,password_enabled,password_last_used,password_last_changed,password_next_rotation"
_SLOT = ",".join(f"access_key_{{0}}_{name}" for name in ("active", "last_rotated", "last_used_date"))
_REST = ",access_key_{0}_last_used_region,access_key_{0}_last_used_service"
HEADER = (
    f"{_USER},mfa_active,{(_SLOT + _REST).format(1)},{(_SLOT + _REST).format(2)},"
    "cert_1_active,cert_1_last_rotated,cert_2_active,cert_2_last_rotated"
).split(",")


@dataclass
class Key:
    """An access key."""

    key_id: str
    created_at: datetime
    used_at: datetime | None = None
    is_active: bool = True


@dataclass
class Account:
    """An account's users with their keys and tags, and the states that its report has before it is complete."""

    number: str
    users: dict[str, list[Key]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    report_states: list[str] = field(default_factory=lambda: ["STARTED", "INPROGRESS"])


@dataclass
class AwsEstate:
    """The accounts of an estate.

    Attributes:
        seconds: how long each answer takes.
        external_id: what AssumeRole requires.
        denied: operations that are refused, each with the account's number.
        throttled: every so-manieth call is throttled; 0 for none.
        root: what the reports say of root's keys.
        users_a_page: at most, of GetAccountAuthorizationDetails.
        on_call: called with the number of each call, counted from 1, before it is answered.
    """

    accounts: dict[str, Account] = field(default_factory=dict)
    seconds: float = 0.0
    external_id: str = "external-1"
    denied: set[tuple[str, str]] = field(default_factory=set)
    throttled: int = 0
    users_a_page: int = 100
    on_call: Callable[[int], None] = lambda number: None
    root: dict[str, str] = field(default_factory=dict)
    made_at: datetime = START + timedelta(days=300)
    calls: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    _at_once: int = 0

    def fill(self, *, accounts: int, users: int, keys: Callable[[int], int] = lambda number: 1 + number % 2) -> int:
        """Create accounts with as many users each, the same ones each time; returns the number of keys."""
        for at in range(1, accounts + 1):
            account = Account(f"{at:012d}")
            self.accounts[account.number] = account
            for number in range(users):
                user = f"svc-{number:05d}"
                account.users[user] = [
                    Key(
                        f"AKIA{at:04d}{number:07d}{slot}",
                        START + timedelta(hours=number % 500, seconds=slot),
                        START + timedelta(days=200, seconds=number) if (number + slot) % 3 else None,
                        is_active=number % 7 != 3,
                    )
                    for slot in range(keys(number))
                ]
                account.tags[user] = {"Owner": f"team-{number % 9}"} if number % 4 else {}
        return sum(len(one) for account in self.accounts.values() for one in account.users.values())

    def application(self) -> web.Application:
        """Return the aiohttp application that serves both services."""
        application = web.Application(client_max_size=1 << 20)
        application.router.add_post("/", self._serve)
        return application

    async def _serve(self, request: web.Request) -> web.Response:
        form = dict(parse_qsl((await request.read()).decode()))
        action = form["Action"]
        self.calls[action] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            number = self.calls.total()
            self.on_call(number)
            await asyncio.sleep(self.seconds)
            if self.throttled and number % self.throttled == 0:
                return _error(400, "Throttling")
            return self._answer(action, form, request.headers.get("Authorization", ""))
        finally:
            self._at_once -= 1

    def _answer(self, action: str, form: dict[str, str], signed: str) -> web.Response:
        if action == "AssumeRole":
            return self._assume(form)
        found = re.search(r"Credential=ASIA(\d{12})/", signed)
        account = None if found is None else self.accounts.get(found[1])
        if account is None:
            return _error(403, "InvalidClientTokenId")
        if (action, account.number) in self.denied:
            return _error(403, "AccessDenied")
        return self._do(action, account, form)

    def _do(self, action: str, account: Account, form: dict[str, str]) -> web.Response:
        if action == "GenerateCredentialReport":
            state = account.report_states.pop(0) if account.report_states else "COMPLETE"
            return _result(action, f"<State>{state}</State>")
        if action == "GetCredentialReport":
            return _result(action, self._report(account))
        return self._users(account, form) if action == "GetAccountAuthorizationDetails" else _keys(account, form)

    def _assume(self, form: dict[str, str]) -> web.Response:
        number = form["RoleArn"].split(":")[4]
        if (
            number not in self.accounts
            or form.get("ExternalId") != self.external_id
            or ("AssumeRole", number) in self.denied
        ):
            return _error(403, "AccessDenied")
        credentials = f"<AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>none</SecretAccessKey>"
        credentials += "<SessionToken>none</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>"
        user = f"<AssumedRoleId>AROA:x</AssumedRoleId><Arn>{form['RoleArn']}/x</Arn>"
        body = f"<Credentials>{credentials}</Credentials><AssumedRoleUser>{user}</AssumedRoleUser>"
        return _result("AssumeRole", body, space="https://sts.amazonaws.com/doc/2011-06-15/")

    def report(self, account: Account) -> str:
        """Return an account's credential report."""
        text = io.StringIO()
        table = csv.DictWriter(text, HEADER, restval="N/A", lineterminator="\n")
        table.writeheader()
        root = {"user": "<root_account>", "arn": f"arn:aws:iam::{account.number}:root"}
        table.writerow(root | {f"access_key_{slot}_active": "false" for slot in (1, 2)} | self.root)
        for user, keys in account.users.items():
            row = {"user": user, "arn": f"arn:aws:iam::{account.number}:user/{user}"}
            row |= {f"access_key_{slot}_active": "false" for slot in (1, 2)}
            for slot, key in enumerate(keys, 1):
                row[f"access_key_{slot}_active"] = str(key.is_active).lower()
                row[f"access_key_{slot}_last_rotated"] = key.created_at.isoformat()
                row[f"access_key_{slot}_last_used_date"] = "N/A" if key.used_at is None else key.used_at.isoformat()
            table.writerow(row)
        return text.getvalue()

    def _report(self, account: Account) -> str:
        content = base64.b64encode(self.report(account).encode()).decode()
        made = f"<GeneratedTime>{self.made_at:%Y-%m-%dT%H:%M:%SZ}</GeneratedTime>"
        return f"<Content>{content}</Content><ReportFormat>text/csv</ReportFormat>{made}"

    def _users(self, account: Account, form: dict[str, str]) -> web.Response:
        size = min(int(form.get("MaxItems", "100")), self.users_a_page)
        users, start = list(account.users), int(form.get("Marker", "0"))
        shown = []
        for user in users[start : start + size]:
            tags = "".join(
                f"<member><Key>{name}</Key><Value>{escape(value)}</Value></member>"
                for name, value in account.tags.get(user, {}).items()
            )
            shown.append(f"<member><UserName>{user}</UserName><Tags>{tags}</Tags></member>")
        more = start + size < len(users)
        end = f"<IsTruncated>{str(more).lower()}</IsTruncated>" + (f"<Marker>{start + size}</Marker>" if more else "")
        return _result("GetAccountAuthorizationDetails", f"<UserDetailList>{''.join(shown)}</UserDetailList>{end}")


def _keys(account: Account, form: dict[str, str]) -> web.Response:
    keys = account.users.get(form["UserName"])
    if keys is None:
        return _error(404, "NoSuchEntity")
    shown = "".join(
        f"<member><UserName>{form['UserName']}</UserName><AccessKeyId>{key.key_id}</AccessKeyId>"
        f"<Status>{'Active' if key.is_active else 'Inactive'}</Status>"
        f"<CreateDate>{key.created_at:%Y-%m-%dT%H:%M:%SZ}</CreateDate></member>"
        for key in keys
    )
    body = f"<AccessKeyMetadata>{shown}</AccessKeyMetadata><IsTruncated>false</IsTruncated>"
    return _result("ListAccessKeys", body)


def _result(action: str, body: str, *, space: str = "https://iam.amazonaws.com/doc/2010-05-08/") -> web.Response:
    end = "<ResponseMetadata><RequestId>00000000-0000-0000-0000-000000000000</RequestId></ResponseMetadata>"
    text = f'<{action}Response xmlns="{space}"><{action}Result>{body}</{action}Result>{end}</{action}Response>'
    return web.Response(text=text, content_type="text/xml")


def _error(status: int, code: str) -> web.Response:
    text = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>a text</Message></Error>"
    return web.Response(status=status, text=f"{text}<RequestId>0</RequestId></ErrorResponse>", content_type="text/xml")
