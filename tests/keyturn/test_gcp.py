"""Service-account keys and Secret Manager of Google Cloud, against a simulator of its APIs that loses answers."""

import json
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.errors import SettingsInvalid
from keyturn.execution.contracts import KeyRotationOrder, KeyState, KeyUse, Need
from keyturn.execution.errors import (
    AccountMismatch,
    AnotherAccount,
    CloudRefused,
    CloudUnavailable,
    ForeignKey,
    KeyLimit,
    NewKeyMissing,
    SecretNotStored,
    TargetUnusable,
    UserGone,
)
from keyturn.execution.mapping import KeyMap, KeyMapping
from keyturn.execution.plans import use_in_words
from keyturn.execution.steps import KeyRotation
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.executors.gcp import EXECUTOR
from keyturn.executors.gcp.activity import use_in
from keyturn.executors.gcp.authentications import (
    HOUR,
    VISIBLE_WITHIN,
    Authentications,
    last_authentications,
    use_by,
)
from keyturn.executors.gcp.keys import GcpServiceAccountKeys
from keyturn.gcp.api import GoogleCloud
from keyturn.gcp.settings import gcp_settings
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.lab.simulator.gcp import PROJECT, FaultName, GcpSimulator
from keyturn.lab.simulator.gcp_answers import MESSAGE
from keyturn.lab.simulator.gcp_secrets import Version
from keyturn.targets.gcpsecrets import TARGET, GcpSecrets
from tests.support import key_rotations
from tests.support.servers import fake_server

T = TypeVar("T")
patiently = partial(key_rotations.patiently, tries=9)  # replicas take their time
USER = f"svc-pay@{PROJECT}.iam.gserviceaccount.com"
SECRET = f"projects/{PROJECT}/secrets/svc-pay"
PASSING: list[FaultName] = ["request_lost", "answer_lost", "half_body", "rate_limit", "unavailable", "html"]
LONG_AGO = timedelta(days=200)


@dataclass
class Lab:
    """The simulator, and what calls it."""

    simulator: GcpSimulator
    google: GoogleCloud
    keys: GcpServiceAccountKeys
    secrets: GcpSecrets

    @property
    def user_keys(self) -> dict[str, str]:
        """The user's keys and their states, read beside every request."""
        keys = self.simulator.iam.accounts[USER]
        return {key_id: "disabled" if key.disabled else "active" for key_id, key in keys.items()}

    @property
    def versions(self) -> list[tuple[bytes, str]]:
        return [(one.data, one.state) for one in self.simulator.secret_manager.secrets.get("svc-pay", [])]

    def old_key(self) -> str:
        return self.simulator.iam.create_key(USER, at=datetime.now(UTC) - LONG_AGO)

    def counted(self, call: str) -> int:
        return self.simulator.calls.count(call)


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """The settings and credentials of an executor's environment, all of them naming the simulator."""
    simulator = GcpSimulator()
    simulator.iam.accounts[USER] = {}
    async with fake_server(simulator.application()) as address:
        file = tmp_path / "executor.json"
        file.write_text(simulator.executor_file(address))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        for name in ("IAM", "POLICY_ANALYZER", "MONITORING", "SECRETS"):
            monkeypatch.setenv(f"KEYTURN_GCP_{name}_URL", address)
        monkeypatch.setenv("KEYTURN_GCP_TOKEN_URL", f"{address}/token")
        monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
        simulator.denied.add("timeSeries.list")  # as where Cloud Monitoring may not be asked
        google = GoogleCloud()
        yield Lab(simulator, google, GcpServiceAccountKeys(google), GcpSecrets(google))
        await google.close()


def expect_silence(error: BaseException, *secrets: str) -> None:
    """Neither the error nor what it refers to holds a secret, or Google's own words."""
    seen: BaseException | None = error
    words = ["".join(traceback.format_exception(error))]
    while seen is not None:
        words += [str(seen), repr(seen), repr(vars(seen))]
        assert getattr(seen, "request", None) is None, "an error of httpx refers to what was sent"
        seen = seen.__context__
    for secret in (MESSAGE, "PRIVATE KEY", "ya29.", *secrets):
        assert not any(secret in word for word in words)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("account_id", "user", "project"),
    [
        (USER, USER, PROJECT),
        (f"projects/{PROJECT}/serviceAccounts/{USER}", USER, PROJECT),
        (f"//iam.googleapis.com/projects/{PROJECT}/serviceAccounts/{USER}", USER, PROJECT),
        (f"projects/{PROJECT}/serviceAccounts/{USER}/keys/0f56", USER, PROJECT),
        (f"projects/-/serviceAccounts/{USER}", USER, PROJECT),
        ("svc@pay-lab.example.com.iam.gserviceaccount.com", None, "example.com:pay-lab"),
        ("projects/example.com:pay-lab/serviceAccounts/107654321098765432109", None, "example.com:pay-lab"),
        ("123456789012-compute@developer.gserviceaccount.com", None, None),
        (f"{PROJECT}@appspot.gserviceaccount.com", None, None),
        ("107654321098765432109", None, None),
        ("projects/123456789012/serviceAccounts/107654321098765432109", "107654321098765432109", None),
    ],
)
async def test_a_service_account_is_named_in_the_ways_that_google_and_inventories_name_it(
    lab: Lab, account_id: str, user: str | None, project: str | None
) -> None:
    """The account is the project; a name that does not say which leaves that to its key."""
    assert lab.keys.account_named_in(account_id) == project
    if project in {None, PROJECT}:
        assert lab.keys.user_of(account_id, PROJECT) == (user or account_id)
    else:
        with pytest.raises(AccountMismatch):
            lab.keys.user_of(account_id, PROJECT)


@pytest.mark.parametrize(
    "account_id",
    ["svc-pay", "arn:aws:iam::123456789012:user/svc-pay", "svc-pay@example.com", "projects/p/serviceAccounts/a/b", ""],
)
async def test_what_names_no_service_account_is_refused(lab: Lab, account_id: str) -> None:
    assert lab.keys.account_named_in(account_id) is None
    with pytest.raises(AccountMismatch):
        lab.keys.user_of(account_id, PROJECT)


# -- keys -------------------------------------------------------------------------------------------------------------


async def test_keys_are_listed_oldest_first_by_what_can_be_used(lab: Lab) -> None:
    """A disabled key is inactive, and so is one that has expired; the account may be named by its number."""
    iam, now = lab.simulator.iam, datetime.now(UTC)
    ids = [iam.create_key(USER, at=now - timedelta(days=days)) for days in (1, 3, 2)]
    iam.accounts[USER][ids[1]].disabled = True
    iam.accounts[USER][ids[2]].expires_at = "2026-01-01T00:00:00Z"
    keys = await lab.keys.list_keys(USER)
    assert [(key.key_id, key.is_active) for key in keys] == [(ids[1], False), (ids[2], False), (ids[0], True)]
    number = json.loads(iam.key_file(USER, ids[0]))["client_id"]
    assert [key.key_id for key in await lab.keys.list_keys(number)] == [key.key_id for key in keys]
    assert await lab.keys.account() == PROJECT


async def test_a_service_account_that_is_gone_is_reported(lab: Lab) -> None:
    with pytest.raises(UserGone):
        await lab.keys.list_keys(f"svc-gone@{PROJECT}.iam.gserviceaccount.com")


async def test_a_new_key_is_returned_as_the_file_that_consumers_read_and_can_sign(lab: Lab) -> None:
    key_id, secret = await lab.keys.create(USER, job_id="job-1")
    assert json.loads(secret.get_secret_value()) == json.loads(lab.simulator.iam.key_file(USER, key_id))
    assert lab.keys.key_in(secret) == key_id
    assert await lab.keys.verify(USER, secret) == USER
    number = json.loads(secret.get_secret_value())["client_id"]
    assert await lab.keys.verify(number, secret) == USER


async def test_a_key_that_google_does_not_know_yet_is_tried_again(lab: Lab) -> None:
    """And so is one that is disabled: Google answers both alike."""
    lab.simulator.iam.unknown_for = 2
    key_id, secret = await lab.keys.create(USER, job_id="job-1")
    for _ in range(2):
        with pytest.raises(CloudUnavailable, match="400 invalid_grant") as caught:
            await lab.keys.verify(USER, secret)
        expect_silence(caught.value, secret.get_secret_value())
    assert await lab.keys.verify(USER, secret) == USER
    await lab.keys.set_active(USER, key_id, False)
    with pytest.raises(CloudUnavailable):
        await lab.keys.verify(USER, secret)


FOREIGN = [
    "",
    "not JSON",
    "[]",
    "null",
    '{"AccessKeyId": "AKIA", "SecretAccessKey": "x"}',
    '{"type": "service_account", "private_key_id": 7, "private_key": "x", "client_email": "y"}',
]


@pytest.mark.parametrize("value", FOREIGN)
async def test_a_secret_that_is_no_key_file_is_not_the_new_key(lab: Lab, value: str) -> None:
    assert lab.keys.key_in(SecretStr(value)) is None
    with pytest.raises(NewKeyMissing) as caught:
        await lab.keys.verify(USER, SecretStr(value))
    expect_silence(caught.value, value or MESSAGE)


async def test_another_accounts_key_and_one_that_cannot_sign_are_not_the_new_one(lab: Lab) -> None:
    key_id = lab.old_key()
    file = json.loads(lab.simulator.iam.key_file(USER, key_id))
    for changed in ({"client_email": "other@example.com"}, {"client_id": ["x"], "private_key": "broken\nbroken"}):
        before = len(lab.simulator.calls)
        user = USER if "private_key" in changed else f"svc-{USER}"
        with pytest.raises(NewKeyMissing) as caught:
            await lab.keys.verify(user, SecretStr(json.dumps(file | changed)))
        expect_silence(caught.value, "broken")
        assert lab.simulator.calls[before:] == []


@pytest.mark.parametrize("hides_for", [0, 1])
async def test_the_bare_refusal_of_an_eleventh_key_is_the_limit_listed_or_not(lab: Lab, hides_for: int) -> None:
    lab.simulator.iam.hides_for = hides_for
    for _ in range(10):
        lab.old_key()
    with pytest.raises(KeyLimit):
        await lab.keys.create(USER, job_id="job-1")
    assert lab.counted("keys.create") == 1


async def test_an_organization_policy_that_forbids_keys_is_named(lab: Lab) -> None:
    lab.simulator.iam.constraints.add("iam.managed.disableServiceAccountKeyCreation")
    with pytest.raises(CloudRefused, match=r"iam\.managed\.disableServiceAccountKeyCreation") as caught:
        await lab.keys.create(USER, job_id="job-1")
    expect_silence(caught.value)


@pytest.mark.parametrize("form", ["its ID", "its resource name"])
async def test_a_key_is_disabled_enabled_and_deleted_by_its_id_or_its_resource_name(lab: Lab, form: str) -> None:
    """Each twice, as after a lost answer: one effect."""
    key_id = lab.old_key()
    name = key_id if form == "its ID" else f"projects/{PROJECT}/serviceAccounts/{USER}/keys/{key_id}"
    for is_active, state in ((False, "disabled"), (True, "active")):
        for _ in range(2):
            await lab.keys.set_active(USER, name, is_active)
        assert lab.user_keys == {key_id: state}
    for _ in range(2):
        await lab.keys.delete(USER, name)
    assert lab.user_keys == {}
    with pytest.raises(CloudUnavailable):
        await lab.keys.set_active(USER, name, True)


@pytest.mark.parametrize("answer", ["precondition", "not_found"])
async def test_a_deletion_that_finds_no_key_is_judged_by_the_list(lab: Lab, answer: FaultName) -> None:
    """Google has answered both for keys that were gone, and 404 for one that was not known everywhere yet."""
    key_id = lab.old_key()
    lab.simulator.faults.append(("keys.delete", answer))
    with pytest.raises(CloudUnavailable):
        await lab.keys.delete(USER, key_id)
    await lab.keys.delete(USER, key_id)
    lab.simulator.faults.append(("keys.delete", answer))
    await lab.keys.delete(USER, key_id)
    del lab.simulator.iam.accounts[USER]
    await lab.keys.delete(USER, key_id)


Doing = Callable[[Lab, str, SecretStr], Awaitable[object]]
CALLS: dict[str, Doing] = {
    "keys.list": lambda lab, key_id, secret: lab.keys.list_keys(USER),
    "keys.create": lambda lab, key_id, secret: lab.keys.create(USER, job_id="job-1"),
    "keys.disable": lambda lab, key_id, secret: lab.keys.set_active(USER, key_id, False),
    "keys.enable": lambda lab, key_id, secret: lab.keys.set_active(USER, key_id, True),
    "keys.delete": lambda lab, key_id, secret: lab.keys.delete(USER, key_id),
    "activities.query": lambda lab, key_id, secret: lab.keys.use_of(USER, key_id),
    "token": lambda lab, key_id, secret: lab.keys.verify(USER, secret),
    "secrets.create": lambda lab, key_id, secret: lab.secrets.put(SECRET, secret, version=key_id),
    "secrets.addVersion": lambda lab, key_id, secret: lab.secrets.put(SECRET, secret, version=key_id),
    "versions.list": lambda lab, key_id, secret: lab.secrets.current(SECRET),
    "versions.access": lambda lab, key_id, secret: lab.secrets.current(SECRET),
}


@pytest.mark.parametrize("call", CALLS)
async def test_what_passes_is_reported_after_one_request_and_without_what_was_sent(lab: Lab, call: str) -> None:
    """No answer, half of one, throttling and an outage: nothing is repeated here, and the next attempt succeeds."""
    key_id = lab.old_key()
    secret = SecretStr(lab.simulator.iam.key_file(USER, key_id))
    await lab.keys.list_keys(USER)  # the executor has its token
    for fault in PASSING:
        lab.simulator.secret_manager.secrets = {} if call == "secrets.create" else {"svc-pay": []}
        lab.simulator.faults.append((call, fault))
        before = lab.counted(call)
        with pytest.raises(CloudUnavailable) as caught:
            await CALLS[call](lab, key_id, secret)
        assert lab.counted(call) == before + 1
        expect_silence(caught.value, secret.get_secret_value(), json.loads(secret.get_secret_value())["private_key"])
        if not call.startswith("keys.d"):  # the key is gone, or disabled, by the answer that was lost
            await CALLS[call](lab, key_id, secret)
    await CALLS[call](lab, key_id, secret)


@pytest.mark.parametrize("call", [call for call in CALLS if call not in {"token", "activities.query"}])
async def test_a_missing_right_is_refused_by_name(lab: Lab, call: str) -> None:
    key_id = lab.old_key()
    secret = SecretStr(lab.simulator.iam.key_file(USER, key_id))
    if call != "secrets.create":
        lab.simulator.secret_manager.secrets["svc-pay"] = []
    lab.simulator.denied.add(call)
    with pytest.raises(CloudRefused, match=f"{call}: 403 PERMISSION_DENIED IAM_PERMISSION_DENIED") as caught:
        await CALLS[call](lab, key_id, secret)
    expect_silence(caught.value, secret.get_secret_value())


# -- the executor's own credentials -----------------------------------------------------------------------------------


async def test_a_revoked_token_is_replaced_at_the_next_attempt(lab: Lab) -> None:
    await lab.keys.list_keys(USER)
    lab.simulator.iam.tokens.clear()
    with pytest.raises(CloudRefused, match="401 UNAUTHENTICATED"):
        await lab.keys.list_keys(USER)
    await lab.keys.list_keys(USER)
    assert lab.counted("executor.token") == 2


async def test_credentials_that_are_missing_or_refused_are_reported(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a project that nothing names; GOOGLE_CLOUD_PROJECT comes before the credentials' own."""
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "another-project")
    assert await GcpServiceAccountKeys().account() == "another-project"
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
    file = Path(tmp_path / "executor.json")
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in whole.items() if name != "project_id"}))
    with pytest.raises(CloudRefused, match="GOOGLE_CLOUD_PROJECT"):
        await GcpServiceAccountKeys().account()
    file.write_text(json.dumps(whole | {"private_key_id": "revoked"}))
    with pytest.raises(CloudRefused, match="RefreshError") as caught:
        await GcpServiceAccountKeys().list_keys(USER)
    expect_silence(caught.value)
    file.write_text(json.dumps(whole | {"token_uri": "http://127.0.0.1:1/token"}))
    with pytest.raises(CloudUnavailable):
        await GcpServiceAccountKeys().list_keys(USER)
    file.unlink()
    with pytest.raises(CloudRefused, match="DefaultCredentialsError"):
        await GcpServiceAccountKeys().account()


async def test_an_address_that_is_not_encrypted_is_refused_beyond_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_GCP_IAM_URL", "http://iam.example.com")
    with pytest.raises(SettingsInvalid, match="KEYTURN_GCP_IAM_URL: must use https"):
        EXECUTOR.open()


def test_googles_library_is_loaded_by_who_uses_it_only() -> None:
    """The executor and the target are loaded at every start."""
    code = (
        "import sys, keyturn.executors.gcp, keyturn.targets.gcpsecrets; "
        "print([name for name in ('google.auth', 'requests') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert (EXECUTOR.name, EXECUTOR.kind, EXECUTOR.extra) == ("gcp", "service_account_key", "gcp")
    assert (TARGET.name, TARGET.extra, TARGET.reads_back) == ("gcpsecrets", "gcp", True)


# -- when a key was last used -----------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def observed(used_on: str | None, ended: str = "2026-11-26", *, gives_way: bool) -> KeyUse:
    activity = {} if used_on is None else {"lastAuthenticatedTime": f"{used_on}T07:00:00Z"}
    found = {"observationPeriod": {"endTime": f"{ended}T07:00:00Z"}, "activity": activity}
    return use_in(found, created_at=datetime(2026, 11, 10, tzinfo=UTC), gives_way=gives_way, now=NOW)


def test_a_key_that_gives_way_was_used_at_the_latest_moment_that_is_possible() -> None:
    """On the last day observed: it is in use now. Five days before: it was quiet for as long as that was observed."""
    for used_on in ("2026-11-25", "2026-11-26"):
        assert observed(used_on, gives_way=True) == KeyUse(
            last_used_at=NOW, by=(f"a Google API, on {used_on}",), is_whole=False
        )
    assert observed("2026-11-21", gives_way=True).last_used_at == NOW - (timedelta(days=4) - timedelta(hours=1))


def test_the_newest_key_was_used_at_the_earliest_moment_that_is_possible() -> None:
    """A use on the day of its verification is none of a consumer's."""
    verified = datetime(2026, 11, 25, 9, tzinfo=UTC)
    same_day, next_day = (observed(day, gives_way=False).last_used_at for day in ("2026-11-25", "2026-11-26"))
    assert same_day is not None
    assert next_day is not None
    assert same_day < verified < next_day


def test_an_observation_that_says_nothing_of_the_time_in_question_is_none() -> None:
    """One that ended before the key was created, or too long ago; no use in one that did not is a key that is idle."""
    assert observed(None, gives_way=True) == KeyUse(is_whole=False)
    assert observed(None, "2026-11-10", gives_way=False) == KeyUse(is_whole=False)
    assert not observed(None, "2026-11-09", gives_way=False).is_known
    assert not observed("2026-11-12", "2026-11-19", gives_way=True).is_known
    assert observed("2026-11-12", "2026-11-19", gives_way=False).is_known
    for broken in ({}, {"observationPeriod": {"endTime": "soon"}}, {"observationPeriod": {"endTime": "2026-11-26"}}):
        assert not use_in(broken, created_at=NOW - LONG_AGO, gives_way=False, now=NOW).is_known


async def test_a_keys_use_is_unknown_without_the_right_or_an_observation(lab: Lab) -> None:
    old = lab.old_key()
    assert not (await lab.keys.use_of(USER, old)).is_known
    assert not (await lab.keys.use_of(USER, "0f561cc4")).is_known
    lab.simulator.iam.observe(USER, old, ended=datetime.now(UTC), used_on=datetime.now(UTC) - timedelta(days=30))
    assert (await lab.keys.use_of(USER, old)).last_used_at is not None
    assert (await lab.keys.use_of(USER, f"projects/{PROJECT}/serviceAccounts/{USER}/keys/{old}")).is_known
    lab.simulator.denied.add("activities.query")
    assert not (await lab.keys.use_of(USER, old)).is_known


# Samples end every ten minutes, are visible within three hours, and are asked for by hours, of which the last ends now.
SEEN = Authentications(3, NOW - timedelta(hours=5), NOW - timedelta(hours=4))


def test_a_key_that_gives_way_was_used_as_late_as_its_counts_allow_and_another_as_early() -> None:
    """What the last three hours hold is not known: a key that was counted within them is in use now."""
    assert use_by(SEEN, gives_way=True, now=NOW).last_used_at == NOW - timedelta(hours=1)
    assert use_by(SEEN, gives_way=True, now=NOW - timedelta(hours=3)).last_used_at == NOW - timedelta(hours=3)
    early = use_by(SEEN, gives_way=False, now=NOW)
    assert (early.last_used_at, early.is_known, early.is_whole) == (NOW - timedelta(hours=5), True, True)
    assert early.by == ("a Google API, by 3 authentications until 2026-11-27 08:00 UTC",)


@pytest.mark.parametrize(
    "series",
    [
        {},
        {"metric": {"labels": {"key_id": "a1"}}},
        {"metric": {"labels": {"key_id": "a1"}}, "points": [{"interval": {"endTime": "2026-11-27T08:00:00Z"}}]},
        {
            "metric": {"labels": {"key_id": "a1"}},
            "points": [{"interval": {"endTime": "2026-11-27T08:00:00Z"}, "value": {"int64Value": "0"}}],
        },
        {"metric": {"labels": {"key_id": "a1"}}, "points": [{"interval": {}, "value": {"int64Value": "3"}}]},
        {"metric": {"labels": {"key_id": "a1"}}, "points": "none"},
    ],
)
def test_a_period_without_an_authentication_is_no_use(series: dict[str, Any]) -> None:
    assert last_authentications([series], period=HOUR) == {}


@pytest.mark.parametrize("gauges_have_starts", [True, False])
async def test_what_monitoring_counts_is_the_keys_use(lab: Lab, *, gauges_have_starts: bool) -> None:
    """Of the one key that is asked for, within hours, for any API; Policy Analyzer is not asked beside it."""
    lab.simulator.denied.clear()
    iam, now = lab.simulator.iam, datetime.now(UTC)
    old, new = lab.old_key(), iam.create_key(USER, at=now - timedelta(days=1))
    iam.monitoring.gauges_have_starts = gauges_have_starts
    iam.observe(USER, old, ended=now, used_on=now - timedelta(days=60))
    iam.monitoring.count(old, at=now - timedelta(days=43))
    assert (await lab.keys.use_of(USER, old)).last_used_at is None, "Monitoring keeps six weeks"
    iam.monitoring.count(old, at=now - timedelta(days=10, minutes=5), times=2)
    iam.monitoring.count(old, at=now - timedelta(days=20))
    iam.monitoring.count(new, at=now - timedelta(minutes=90))
    seen, of_new = await lab.keys.use_of(USER, old), await lab.keys.use_of(USER, new)
    assert lab.counted("activities.query") == 0
    assert seen.last_used_at is not None
    assert abs(now - timedelta(days=10) + VISIBLE_WITHIN - seen.last_used_at) < timedelta(minutes=1)
    assert "by 2 authentications" in seen.by[0]
    assert of_new.last_used_at is not None
    assert abs(now - timedelta(hours=2, minutes=10) - of_new.last_used_at) < timedelta(minutes=1), "a sample's length"


async def test_six_weeks_without_an_authentication_are_known_and_what_was_before_is_not(lab: Lab) -> None:
    """Whichever key it is, and however long the old one must be quiet: what is not seen is no use."""
    lab.simulator.denied.clear()
    old = lab.old_key()
    new = lab.simulator.iam.create_key(USER, at=datetime.now(UTC) - timedelta(days=50))
    for key_id in (old, new):
        unused = await lab.keys.use_of(USER, key_id)
        assert (unused.last_used_at, unused.is_known, unused.is_whole) == (None, True, False)
        assert use_in_words(unused) == "never, as far as the cloud sees: six weeks of Cloud Monitoring"


@pytest.mark.parametrize("body", [{"executionErrors": [{"code": 14}]}, {"nextPageToken": "x"}])
async def test_a_part_of_the_counts_is_no_proof_that_there_are_none(
    lab: Lab, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.simulator.denied.clear()
    monkeypatch.setattr(lab.simulator.iam.monitoring, "list_series", lambda *_: body)
    with pytest.raises(CloudUnavailable, match="not whole"):
        await lab.keys.use_of(USER, lab.old_key())


async def test_a_key_says_whether_these_credentials_created_it(lab: Lab) -> None:
    """Where Google names the creator; then a lost one of ours is no colleague's of the same minute."""
    iam = lab.simulator.iam
    by_us, _ = await lab.keys.create(USER, job_id="job-1")
    by_another = iam.create_key(USER)
    assert {key.key_id: key.is_own for key in await lab.keys.list_keys(USER)} == {by_us: True, by_another: False}
    iam.names_creators = False
    assert not any(key.is_own for key in await lab.keys.list_keys(USER))


# -- many projects ----------------------------------------------------------------------------------------------------


async def test_each_project_has_its_own_keys_by_one_set_of_credentials(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same name in two projects is two accounts; a job is its own project's."""
    monkeypatch.setenv("KEYTURN_GCP_PROJECTS", f"{PROJECT} other-project")
    here, there = EXECUTOR.open()
    assert [await here.account(), await there.account()] == [PROJECT, "other-project"]
    key_id = lab.old_key()
    assert [key.key_id for key in await here.list_keys(USER)] == [key_id]
    assert here.user_of(USER, PROJECT) == USER
    with pytest.raises(AccountMismatch):
        there.user_of(USER, "other-project")
    with pytest.raises(UserGone):
        await there.list_keys(USER.replace(PROJECT, "other-project"))


@pytest.mark.parametrize("value", ["123456789012", "My-Project", "lab-one lab-one", "a", " "])
def test_a_project_that_cannot_be_one_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("KEYTURN_GCP_PROJECTS", value)
    with pytest.raises(SettingsInvalid, match="KEYTURN_GCP_PROJECTS"):
        gcp_settings()


# -- Secret Manager ---------------------------------------------------------------------------------------------------


async def test_a_secret_is_created_and_reads_back_exactly(lab: Lab) -> None:
    """Stored twice as one version, it is one version."""
    assert await lab.secrets.current(SECRET) is None
    value = SecretStr('{"private_key": "-----BEGIN\\n"}\n\u00e4')
    for _ in range(2):
        await lab.secrets.put(SECRET, value, version="key-1")
    assert await lab.secrets.current(SECRET) == value
    assert lab.versions == [(value.get_secret_value().encode(), "ENABLED")]


@pytest.mark.parametrize("hides_for", [0, 3])
@pytest.mark.parametrize("fault", ["answer_lost", "request_lost"])
async def test_a_lost_answer_leaves_one_version_even_where_the_list_is_behind(
    lab: Lab, fault: FaultName, hides_for: int
) -> None:
    """Versions are read by their numbers, also those that are not listed yet."""
    await lab.secrets.put(SECRET, SecretStr("before"), version="key-0")
    lab.simulator.secret_manager.hides_for = hides_for
    lab.simulator.faults.append(("secrets.addVersion", fault))
    await patiently(lambda: lab.secrets.put(SECRET, SecretStr("new"), version="key-1"))
    assert [data for data, _ in lab.versions] == [b"before", b"new"]
    assert await lab.secrets.current(SECRET) == SecretStr("new")
    await lab.secrets.restore(SECRET)
    assert await lab.secrets.current(SECRET) == SecretStr("before")


async def test_what_was_before_is_added_again_and_nothing_is_destroyed(lab: Lab) -> None:
    """Disabled versions are skipped, and versions that hold the same are one."""
    for value in ("first", "disabled", "before", "new"):
        await lab.secrets.put(SECRET, SecretStr(value), version=value)
    stored = lab.simulator.secret_manager.secrets["svc-pay"]
    stored[1].state = "DISABLED"
    stored.append(Version(b"new"))
    await lab.secrets.restore(SECRET)
    assert await lab.secrets.current(SECRET) == SecretStr("before")
    assert [data for data, _ in lab.versions] == [b"first", b"disabled", b"before", b"new", b"new", b"before"]
    stored[5].state = "DISABLED"
    assert await lab.secrets.current(SECRET) == SecretStr("new")


async def test_the_first_secret_is_disabled_where_there_is_none_before(lab: Lab) -> None:
    await lab.secrets.put(SECRET, SecretStr("new"), version="key-1")
    lab.simulator.secret_manager.secrets["svc-pay"].append(Version(b"new"))
    lab.simulator.faults.append(("versions.disable", "answer_lost"))
    await patiently(lambda: lab.secrets.restore(SECRET))
    assert lab.versions == [(b"new", "DISABLED"), (b"new", "DISABLED")]
    assert await lab.secrets.current(SECRET) is None
    await lab.secrets.restore(SECRET)


async def test_a_value_that_we_did_not_write_does_no_harm(lab: Lab) -> None:
    """Bytes of another program are read as what they are not, and restored as they are."""
    lab.simulator.secret_manager.secrets["svc-pay"] = [Version(b"\xff\xfe\x00")]
    foreign = await lab.secrets.current(SECRET)
    assert foreign is not None
    assert lab.keys.key_in(foreign) is None
    await lab.secrets.put(SECRET, SecretStr("new"), version="key-1")
    await lab.secrets.restore(SECRET)
    assert lab.versions[-1][0] == b"\xff\xfe\x00"


async def test_a_secret_that_does_not_exist_and_may_not_be_created_is_named(lab: Lab) -> None:
    lab.simulator.denied.add("secrets.create")
    with pytest.raises(CloudRefused, match=f"{SECRET} does not exist"):
        await lab.secrets.put(SECRET, SecretStr("new"), version="key-1")


async def test_a_secret_is_named_by_its_project_and_an_id_that_secret_manager_takes(lab: Lab) -> None:
    """An email address has marks that it does not take: they are written as their codes."""
    await lab.secrets.put(f"projects/{PROJECT}/secrets/{USER}", SecretStr("new"), version="key-1")
    assert list(lab.simulator.secret_manager.secrets) == [USER.replace("@", "_40").replace(".", "_2E")]
    for name in ("svc-pay", "projects/p/secrets/", "projects/p/secrets/a/versions/1", f"{SECRET}{'.' * 90}"):
        with pytest.raises(TargetUnusable):
            await lab.secrets.current(name)
    with pytest.raises(SecretNotStored) as caught:
        await lab.secrets.put(SECRET, SecretStr("x" * 65_537), version="key-1")
    expect_silence(caught.value, "xxx")


# -- a whole rotation -------------------------------------------------------------------------------------------------


@dataclass
class Rotation:
    """A rotation of the user's key, its steps called as the workflow calls them."""

    lab: Lab
    steps: KeyRotation
    store: JobStore
    engine: AsyncEngine

    async def job_for(self, key_id: str, account_id: str = USER) -> str:
        return await key_rotations.create_job(self.store, account_id, key_id, kind="service_account_key")

    async def start(self, old: str, account_id: str = USER) -> KeyState:
        ordered = KeyRotationOrder(job_id=await self.job_for(old, account_id), cloud_account=PROJECT)
        job = await patiently(lambda: self.steps.claim(ordered))
        return await patiently(lambda: self.steps.record(ordered, job))

    async def create(self, state: KeyState) -> KeyState:
        state = state.model_copy(update={"new_key_id": await patiently(lambda: self.steps.create(state))})
        return state.model_copy(update={"verified_at": await patiently(lambda: self.steps.verify(state))})

    async def finish(self, state: KeyState) -> KeyState:
        state = state.model_copy(update={"deactivated_at": await patiently(lambda: self.steps.deactivate(state))})
        assert self.lab.user_keys == {state.old_key_id: "disabled", state.new_key_id: "active"}
        assert await patiently(lambda: self.steps.uses_since(state)) is None
        await patiently(lambda: self.steps.delete(state))
        await patiently(lambda: self.steps.close(state))
        return state

    @property
    def stored(self) -> str | None:
        """The ID of the key whose file is the stored secret, if it is enabled."""
        data = [data for data, state in self.lab.versions if state == "ENABLED"]
        return None if not data else str(json.loads(data[-1])["private_key_id"])


@pytest.fixture
def rotation(lab: Lab, sqlite_store: JobStore, sqlite_engine: AsyncEngine) -> Rotation:
    targets = SecretTargets({"gcpsecrets": lambda: OpenTarget(lab.secrets, reads_back=True)})
    leases, outbox = JobLeases(sqlite_engine), Outbox(sqlite_engine)
    paths = [f"gcpsecrets:{SECRET}"]
    steps = KeyRotation(lab.keys, targets, leases, outbox, default_targets=paths, known_every=timedelta(0))
    return Rotation(lab, steps, sqlite_store, sqlite_engine)


async def test_a_key_is_rotated_from_its_claim_to_its_end(rotation: Rotation, monkeypatch: pytest.MonkeyPatch) -> None:
    """One new working key, its file stored, the old one gone; the job's rows never hold the secret.

    What other executions wrote is a search through the whole trail, and not made where each key is explained.
    """
    monkeypatch.delattr(JobLeases, "other_trails")
    lab, old = rotation.lab, rotation.lab.old_key()
    now = datetime.now(UTC)
    lab.simulator.iam.observe(USER, old, ended=now, used_on=now - timedelta(days=120))
    state = await rotation.create(await rotation.start(old))
    assert (state.user, state.cloud_account, state.keys_before) == (USER, PROJECT, (old,))
    need = await rotation.steps.needs(state, now=datetime.now(UTC))
    assert need is not None
    assert need.kind == "new_key_not_seen", "Google sees Cloud APIs alone: 120 quiet days are no proof"
    state = await rotation.finish(state)
    assert lab.user_keys == {state.new_key_id: "active"}
    assert rotation.stored == state.new_key_id
    assert state.new_key_id is not None
    private = json.loads(lab.simulator.iam.key_file(USER, state.new_key_id))["private_key"]
    async with rotation.engine.connect() as connection:
        for table in ("rotation_jobs", "job_audit", "outbox"):
            rows = str((await connection.execute(text(f"SELECT * FROM {table}"))).all())
            assert private not in rows
            assert "PRIVATE KEY" not in rows
        [[status]] = (await connection.execute(text("SELECT status FROM rotation_jobs"))).all()
    assert status == "done"


async def test_the_old_key_stays_until_it_is_quiet_and_the_new_one_is_seen(rotation: Rotation) -> None:
    """Days are what Google reports: the day of our own verification is no proof of a consumer."""
    iam, now, day = rotation.lab.simulator.iam, datetime.now(UTC), timedelta(days=1)
    old = rotation.lab.old_key()
    state = await rotation.create(await rotation.start(old))
    new = str(state.new_key_id)

    async def need() -> str | None:
        found = await rotation.steps.needs(state, now=datetime.now(UTC))
        return None if found is None else found.kind

    assert await need() == "key_use_unknown"
    iam.observe(USER, old, ended=now, used_on=now - day)
    assert await need() == "old_key_in_use"
    iam.observe(USER, old, ended=now, used_on=now - 3 * day)
    assert await need() == "new_key_not_seen"
    # A week later, as far as the new key's dates go.
    iam.accounts[USER][new].created_at -= 7 * day
    state = state.model_copy(update={"verified_at": now - 7 * day})
    iam.observe(USER, new, ended=now, used_on=now - 7 * day - timedelta(hours=8))
    assert await need() == "new_key_not_seen"
    iam.observe(USER, new, ended=now, used_on=now - 5 * day)
    assert await need() is None


async def test_the_new_key_is_seen_within_hours_where_monitoring_may_be_asked(rotation: Rotation) -> None:
    """A consumer of Workspace, which Policy Analyzer never sees, keeps the old key, and lets it go once it moved."""
    rotation.lab.simulator.denied.clear()
    monitoring, now, hour = rotation.lab.simulator.iam.monitoring, datetime.now(UTC), timedelta(hours=1)
    state = await rotation.create(await rotation.start(rotation.lab.old_key()))
    new = str(state.new_key_id)

    async def need() -> Need | None:
        return await rotation.steps.needs(state, now=datetime.now(UTC))

    monitoring.count(state.old_key_id, at=now - 23 * hour)
    used = await need()
    assert used is not None
    assert (used.kind, len(used.by)) == ("old_key_in_use", 1)
    monitoring.samples[state.old_key_id] = [(now - 30 * hour, 1)]
    assert getattr(await need(), "kind", None) == "new_key_not_seen"
    rotation.lab.simulator.iam.accounts[USER][new].created_at -= 30 * hour
    state = state.model_copy(update={"verified_at": now - 30 * hour})
    monitoring.count(new, at=now - 30 * hour)  # our own verification
    assert getattr(await need(), "kind", None) == "new_key_not_seen"
    monitoring.count(new, at=now - 2 * hour)
    assert await need() is None
    await rotation.finish(state)


async def test_a_use_of_the_disabled_key_that_google_did_not_know_of_brings_it_back(rotation: Rotation) -> None:
    """Days come days late: the day on which it was disabled is news, too, and one from before its quiet is not."""
    iam, now, day = rotation.lab.simulator.iam, datetime.now(UTC), timedelta(days=1)
    state = await rotation.create(await rotation.start(rotation.lab.old_key()))
    await rotation.steps.deactivate(state)
    state = state.model_copy(update={"deactivated_at": now - 3 * day})
    pacific = now - timedelta(hours=7) - 3 * day  # a day is written as 07:00 UTC
    iam.observe(USER, state.old_key_id, ended=now, used_on=pacific - 2 * day)
    assert await rotation.steps.uses_since(state) is None
    for later in (0, 2):
        await rotation.lab.keys.set_active(USER, state.old_key_id, False)
        iam.observe(USER, state.old_key_id, ended=now, used_on=pacific + later * day)
        need = await rotation.steps.uses_since(state)
        assert need is not None
        assert (need.kind, need.by) == ("old_key_in_use", (f"a Google API, on {pacific + later * day:%Y-%m-%d}",))
        assert rotation.lab.user_keys[state.old_key_id] == "active"


@pytest.mark.parametrize("fault", ["answer_lost", "half_body", "request_lost"])
@pytest.mark.parametrize("call", ["keys.create", "secrets.create", "secrets.addVersion", "token", "keys.list"])
async def test_whichever_answer_is_lost_there_is_one_new_working_key_and_no_orphan(
    rotation: Rotation, call: str, fault: FaultName
) -> None:
    lab, old = rotation.lab, rotation.lab.old_key()
    if fault == "request_lost":
        lab.keys.visible_within = timedelta(0)  # a key that was not created is waited for until it would be listed
    state = await rotation.start(old)
    lab.simulator.faults.append((call, fault))
    state = await rotation.create(state)
    assert lab.simulator.faults == []
    assert lab.user_keys == {old: "active", state.new_key_id: "active"}
    assert rotation.stored == state.new_key_id
    await rotation.finish(state)
    assert lab.user_keys == {state.new_key_id: "active"}


@pytest.mark.parametrize("fault", ["answer_lost", "request_lost"])
@pytest.mark.parametrize("call", ["keys.disable", "keys.delete"])
async def test_a_change_of_the_old_key_whose_answer_is_lost_is_done_once(
    rotation: Rotation, call: str, fault: FaultName
) -> None:
    state = await rotation.create(await rotation.start(rotation.lab.old_key()))
    rotation.lab.simulator.faults.append((call, fault))
    await rotation.finish(state)
    assert rotation.lab.user_keys == {state.new_key_id: "active"}


async def test_a_lost_key_that_is_listed_late_is_waited_for_and_deleted(rotation: Rotation) -> None:
    """No second key is created while one may be there that is not listed yet."""
    lab, old = rotation.lab, rotation.lab.old_key()
    state = await rotation.start(old)
    lab.simulator.iam.hides_for = 3
    lab.simulator.faults.append(("keys.create", "answer_lost"))
    for _ in range(3):
        with pytest.raises(CloudUnavailable):
            await rotation.steps.create(state)
        assert len(lab.user_keys) == 2
    lab.simulator.iam.hides_for = 0
    state = await rotation.create(state)
    assert lab.user_keys == {old: "active", state.new_key_id: "active"}


async def test_a_lost_key_is_ours_also_behind_one_that_was_not_lost(rotation: Rotation) -> None:
    """The first key's secret found no target, the second one's answer was lost and is listed last: none is left."""
    lab, old = rotation.lab, rotation.lab.old_key()
    state, iam = await rotation.start(old), lab.simulator.iam
    lab.keys.visible_within = timedelta(0)  # as minutes later
    lab.simulator.faults += [("secrets.create", "unavailable")]
    with pytest.raises(CloudUnavailable):
        await rotation.steps.create(state)
    (first,) = set(lab.user_keys) - {old}
    iam.accounts[USER][first].hidden = 99
    iam.hides_for = 99
    lab.simulator.faults.append(("keys.create", "answer_lost"))
    with pytest.raises(CloudUnavailable):
        await rotation.steps.create(state)
    (lost,) = set(lab.user_keys) - {old, first}
    iam.accounts[USER][first].hidden = iam.hides_for = 0
    lab.simulator.faults.append(("secrets.create", "unavailable"))
    with pytest.raises(CloudUnavailable):
        await rotation.steps.create(state)
    assert first not in lab.user_keys
    iam.accounts[USER][lost].hidden = 0
    state = await rotation.create(state)
    assert lab.user_keys == {old: "active", state.new_key_id: "active"}
    await rotation.finish(state)
    assert lab.user_keys == {state.new_key_id: "active"}


async def test_a_lost_key_that_something_uses_is_never_touched(rotation: Rotation) -> None:
    """Its secret was not lost, then: another program with these credentials has created it."""
    lab, old = rotation.lab, rotation.lab.old_key()
    state = await rotation.start(old)
    lab.simulator.denied.clear()
    lab.simulator.faults.append(("keys.create", "answer_lost"))
    with pytest.raises(CloudUnavailable):
        await rotation.steps.create(state)
    (lost,) = set(lab.user_keys) - {old}
    lab.simulator.iam.monitoring.count(lost, at=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(ForeignKey):
        await rotation.steps.create(state)
    assert set(lab.user_keys) == {old, lost}


async def test_two_keys_of_one_account_are_rotated_at_once(lab: Lab, sqlite_engine: AsyncEngine) -> None:
    """Neither takes the other's new key for a stranger's, nor for its own lost one; and a rollback leaves it, too."""
    one, two, three = (lab.old_key() for _ in range(3))
    tables = [
        KeyMapping(account=USER, key_id=key, targets=(f"gcpsecrets:{SECRET}-{number}",))
        for number, key in enumerate((one, two, three))
    ]
    targets = SecretTargets({"gcpsecrets": lambda: OpenTarget(lab.secrets, reads_back=True)})
    leases, outbox = JobLeases(sqlite_engine), Outbox(sqlite_engine)
    words: dict[str, Any] = {"default_targets": ["gcpsecrets:none"], "known_every": timedelta(0)}
    words |= {"key_map": lambda: KeyMap(tables), "created_within": timedelta(0)}
    steps = KeyRotation(lab.keys, targets, leases, outbox, **words)
    rotation = Rotation(lab, steps, JobStore(sqlite_engine), sqlite_engine)
    # The same account, as three inventories name it.
    names = (USER, f"projects/{PROJECT}/serviceAccounts/{USER}", f"projects/-/serviceAccounts/{USER}")
    first, second, third = [await rotation.start(*key) for key in zip((one, two, three), names, strict=True)]
    lab.keys.visible_within = timedelta(0)
    lab.simulator.faults.append(("keys.create", "request_lost"))
    with pytest.raises(CloudUnavailable):  # it was asked for now, and never created
        await steps.create(first)
    second = await rotation.create(second)
    waiting = KeyRotation(lab.keys, targets, leases, outbox, **words | {"created_within": timedelta(minutes=1)})
    with pytest.raises(CloudUnavailable, match="another rotation of this account creates a key now"):
        await waiting.create(third)
    first = await rotation.create(first)
    third = await rotation.create(third)
    assert set(lab.user_keys) == {one, two, three, first.new_key_id, second.new_key_id, third.new_key_id}
    await steps.roll_back(third, "a test")
    for state in (second, first):
        gone = state.model_copy(update={"deactivated_at": await steps.deactivate(state)})
        await steps.delete(gone)
    assert lab.user_keys == {three: "active", first.new_key_id: "active", second.new_key_id: "active"}


async def test_a_target_that_another_rotation_of_the_account_has_filled_is_left(rotation: Rotation) -> None:
    """Both were recorded while it was empty: who reads it must not get another key than before."""
    one, two = rotation.lab.old_key(), rotation.lab.old_key()
    first, second = await rotation.start(one), await rotation.start(two)
    first = await rotation.create(first)
    with pytest.raises(TargetUnusable, match="holds another active key of the user: give each key a table of its own"):
        await rotation.steps.create(second)
    assert rotation.stored == first.new_key_id
    assert set(rotation.lab.user_keys) == {one, two, first.new_key_id}


@pytest.mark.parametrize("case", ["its creator is not named", "another created it"])
async def test_a_key_that_nothing_shows_to_be_ours_is_never_touched(rotation: Rotation, case: str) -> None:
    """A person looks at it: its date alone proves nothing."""
    lab, old = rotation.lab, rotation.lab.old_key()
    state = await rotation.start(old)
    fault: FaultName = "answer_lost" if case == "its creator is not named" else "request_lost"
    lab.simulator.iam.names_creators = case != "its creator is not named"
    lab.simulator.faults.append(("keys.create", fault))
    with pytest.raises(CloudUnavailable):
        await rotation.steps.create(state)
    if case == "another created it":
        lab.simulator.iam.create_key(USER)
    before = lab.user_keys
    for _ in range(2):
        with pytest.raises(ForeignKey):
            await rotation.steps.create(state)
    assert lab.user_keys == before
    assert len(before) == 2


async def test_a_rollback_brings_the_old_key_and_the_secret_before_back(rotation: Rotation) -> None:
    lab, old = rotation.lab, rotation.lab.old_key()
    before = lab.simulator.iam.key_file(USER, old)
    await lab.secrets.put(SECRET, SecretStr(before), version=old)
    state = await rotation.create(await rotation.start(old))
    assert rotation.stored == state.new_key_id
    await rotation.steps.deactivate(state)
    lab.simulator.faults.append(("keys.enable", "answer_lost"))
    await patiently(lambda: rotation.steps.roll_back(state, "the importer broke"))
    assert lab.user_keys == {old: "active"}
    assert await lab.secrets.current(SECRET) == SecretStr(before)


@pytest.mark.parametrize(
    "account_id",
    ["svc-pay@another-lab.iam.gserviceaccount.com", "123-compute@developer.gserviceaccount.com", "svc-pay"],
)
async def test_a_job_of_another_project_is_left_for_its_own_executor(rotation: Rotation, account_id: str) -> None:
    """By its name, or because nothing shows that the key is here."""
    job_id = await rotation.job_for("0f561cc4", account_id)
    with pytest.raises(AnotherAccount):
        await rotation.steps.claim(KeyRotationOrder(job_id=job_id, cloud_account=PROJECT))
    assert set(rotation.lab.simulator.calls) <= {"executor.token", "keys.list"}


async def test_a_default_accounts_key_decides_that_it_is_of_this_project(rotation: Rotation) -> None:
    account = "123-compute@developer.gserviceaccount.com"
    rotation.lab.simulator.iam.accounts[account] = {}
    key_id = rotation.lab.simulator.iam.create_key(account)
    ordered = KeyRotationOrder(job_id=await rotation.job_for(key_id, account), cloud_account=PROJECT)
    state = await rotation.steps.record(ordered, await rotation.steps.claim(ordered))
    assert (state.user, state.old_key_id) == (account, key_id)


async def test_a_secret_whose_versions_are_encrypted_by_a_disabled_key_is_not_taken_for_an_empty_one(
    rotation: Rotation,
) -> None:
    """A rollback would delete the new key, whose secret is current again as soon as Cloud KMS has its key back."""
    lab, old = rotation.lab, rotation.lab.old_key()
    await lab.secrets.put(SECRET, SecretStr(lab.simulator.iam.key_file(USER, old)), version="v0")
    state = await rotation.create(await rotation.start(old))
    lab.simulator.secret_manager.key_is_disabled = True
    with pytest.raises(CloudRefused, match="is enabled and cannot be read"):
        await patiently(lambda: lab.secrets.current(SECRET))
    lab.simulator.denied.add("versions.get")  # without that right, it is what the list says
    with pytest.raises(CloudRefused, match="is enabled and cannot be read"):
        await patiently(lambda: lab.secrets.current(SECRET))
    with pytest.raises(CloudRefused):
        await patiently(lambda: rotation.steps.roll_back(state, "rolled back"))
    assert set(lab.user_keys) == {old, str(state.new_key_id)}


async def test_a_rollback_does_not_store_the_secret_of_a_key_that_is_long_gone(rotation: Rotation) -> None:
    """The version before was disabled by hand, as Google advises to do before one is destroyed."""
    lab, old = rotation.lab, rotation.lab.old_key()
    file = lab.simulator.iam.key_file(USER, old)
    await lab.secrets.put(SECRET, SecretStr(file.replace(old, "d" * 40)), version="v0")
    await lab.secrets.put(SECRET, SecretStr(file), version="v1")
    state = await rotation.create(await rotation.start(old))
    lab.simulator.secret_manager.secrets["svc-pay"][1].state = "DISABLED"
    with pytest.raises(SecretNotStored, match="a key that does not work"):
        await patiently(lambda: rotation.steps.roll_back(state, "rolled back"))
    assert rotation.stored == state.new_key_id
    assert str(state.new_key_id) in lab.user_keys
