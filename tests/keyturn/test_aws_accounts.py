"""Many AWS accounts by one executor: a role in each, against moto's STS, IAM and Organizations."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import boto3
import pytest
from moto.iam.models import iam_backends

from keyturn.errors import SettingsInvalid
from keyturn.execution.errors import CloudRefused
from keyturn.executors.aws.accounts import AwsAccountSettings, open_accounts
from keyturn.executors.aws.iam import AwsAccessKeys
from keyturn.snapshots.fetchers.aws import AwsCloud
from tests.support.aws import ACCOUNT, Aws, Network

ONE, TWO = "111111111111", "222222222222"
ANYTHING = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}
        ],
    }
)


@pytest.fixture
def roles(aws: Aws) -> Iterator[None]:
    """The role `rotator` in both accounts."""
    for account in (ONE, TWO):
        backend = iam_backends[account]["aws"]
        backend.create_role("rotator", TRUST, "/", None, "", [], "3600")
        backend.put_role_policy("rotator", "all", ANYTHING)
    yield
    for account in (ONE, TWO):
        iam_backends[account]["aws"].delete_role_policy("rotator", "all")
        iam_backends[account]["aws"].delete_role("rotator")


async def test_without_a_list_the_executor_has_the_account_of_its_credentials(aws: Aws) -> None:
    (keys,) = open_accounts(**aws.settings())
    assert await keys.account() == ACCOUNT


@pytest.mark.usefixtures("roles")
async def test_each_account_is_entered_by_its_role_and_once(
    aws: Aws, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a session name and an external ID; a key of a user is created in the account of the role."""
    monkeypatch.setenv("KEYTURN_AWS_ACCOUNTS", f"{ONE} {TWO}")
    monkeypatch.setenv("KEYTURN_AWS_ROLE", "rotator")
    monkeypatch.setenv("KEYTURN_AWS_EXTERNAL_ID", "external-1")
    monkeypatch.setenv("KEYTURN_AWS_SESSION_NAME", "keyturn-tests")
    accounts = open_accounts(**aws.settings(network.address))
    assert network.calls == []  # no role is assumed before it is needed
    assert [await keys.account() for keys in accounts] == [ONE, TWO]
    iam_backends[ONE]["aws"].create_user("us-east-1", "svc")
    key_id, secret = await accounts[0].create("svc", job_id="job_1")
    assert [key.key_id for key in await accounts[0].list_keys("svc")] == [key_id]
    assert await accounts[0].verify("svc", secret) == f"arn:aws:iam::{ONE}:user/svc"
    assert network.calls.count("AssumeRole") == 2
    asked = network.forms["AssumeRole"]
    assert asked["RoleArn"] == f"arn:aws:iam::{TWO}:role/rotator"
    assert (asked["ExternalId"], asked["RoleSessionName"]) == ("external-1", "keyturn-tests")


async def test_a_role_that_may_not_be_assumed_is_named_by_its_code(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other accounts' executors are not held up by it."""
    monkeypatch.setenv("KEYTURN_AWS_ACCOUNTS", ONE)
    wrong = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "no secret of anyone's"}
    (keys,) = open_accounts(**aws.settings() | wrong)
    with pytest.raises(CloudRefused, match="AssumeRole: InvalidClientTokenId"):
        await keys.account()


async def test_the_active_accounts_of_an_organization_are_all_served(
    aws: Aws, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page; a suspended account is left out."""
    monkeypatch.setenv("KEYTURN_AWS_ACCOUNTS", "organization")
    pages = [
        {
            "Accounts": [{"Id": ONE, "Status": "ACTIVE"}, {"Id": "333333333333", "Status": "SUSPENDED"}],
            "NextToken": "2",
        },
        {"Accounts": [], "NextToken": "3"},
        {"Accounts": [{"Id": TWO, "State": "ACTIVE"}, {"Id": "444444444444", "State": "CLOSED"}]},
    ]
    network.answers["ListAccounts"] = lambda: pages.pop(0)
    opened = await asyncio.to_thread(open_accounts, **aws.settings(network.address))
    assert len(opened) == 2
    assert network.calls == ["ListAccounts"] * 3


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ACCOUNTS", "12345678901", "KEYTURN_AWS_ACCOUNTS: is neither numbers of 12 digits"),
        ("ACCOUNTS", f"{ONE} organization", "KEYTURN_AWS_ACCOUNTS: is neither"),
        ("ACCOUNTS", f"{ONE} {ONE}", "KEYTURN_AWS_ACCOUNTS: names an account twice"),
        ("ROLE", "a role", "KEYTURN_AWS_ROLE"),
        ("SESSION_NAME", "x", "KEYTURN_AWS_SESSION_NAME"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"KEYTURN_AWS_{name}", value)
    with pytest.raises(SettingsInvalid, match=says):
        open_accounts(**aws.settings())


def test_an_external_id_is_no_text_of_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_AWS_EXTERNAL_ID", "external-1")
    assert "external-1" not in repr(AwsAccountSettings())


async def test_what_uses_a_key_is_named_by_cloudtrail(aws: Aws, network: Network) -> None:
    """Each once; what is no record, and what would write on a terminal, does no harm."""
    user, key_id = aws.user()
    sts_call = {"aws_access_key_id": key_id, "aws_secret_access_key": aws.secret_of(user, key_id)}
    await asyncio.to_thread(boto3.client("sts", **aws.settings() | sts_call).get_caller_identity)
    record = {
        "userIdentity": {"arn": f"arn:aws:iam::{ACCOUNT}:user/{user}"},
        "eventSource": "s3.amazonaws.com",
        "awsRegion": "eu-central-1",
        "sourceIPAddress": "203.0.113.7",
    }
    texts = [json.dumps(record), json.dumps(record), "no JSON", "[]", json.dumps(record | {"eventSource": "\x1b[2J"})]
    network.answers["LookupEvents"] = lambda: {"Events": [{"CloudTrailEvent": text} for text in texts] + [{}]}
    keys = AwsAccessKeys(**aws.settings(network.address))
    use = await keys.use_of(user, key_id)
    who = f"arn:aws:iam::{ACCOUNT}:user/{user}"
    assert use.by == (
        f"{who} at s3.amazonaws.com in eu-central-1 from 203.0.113.7",
        f"{who} at ?[2J in eu-central-1 from 203.0.113.7",
    )
    assert network.calls == ["GetAccessKeyLastUsed", "LookupEvents"]
    assert network.forms["LookupEvents"]["LookupAttributes"] == [
        {"AttributeKey": "AccessKeyId", "AttributeValue": key_id}
    ]
    network.answers["LookupEvents"] = lambda: None  # it may not be read
    assert (await keys.use_of(user, key_id)).by == ("sts in eu-central-1",)


@pytest.mark.usefixtures("roles")
async def test_the_keys_of_each_account_are_fetched_by_its_role(
    aws: Aws, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With moto's report, lists and tags; one call of a user that has keys, and none of one that has not."""
    monkeypatch.setenv("KEYTURN_AWS_ACCOUNTS", f"{TWO} {ONE}")
    monkeypatch.setenv("KEYTURN_AWS_ROLE", "rotator")
    expected = {}
    for account in (ONE, TWO):
        backend = iam_backends[account]["aws"]
        for name in ("fetched-1", "fetched-2", "keyless"):
            backend.create_user("us-east-1", name, tags=[{"Key": "TEAM", "Value": "Payments Team"}])
        keys = [backend.create_access_key(name) for name in ("fetched-1", "fetched-1", "fetched-2")]
        backend.update_access_key("fetched-2", keys[2].access_key_id, "Inactive")
        expected[account] = {key.access_key_id for key in keys}
    cloud = AwsCloud(**aws.settings(network.address))
    parts = await cloud.parts()
    assert [part.name for part in parts] == [ONE, TWO]
    for part in parts:
        page = await cloud.read(part, "", datetime.now(UTC))
        rows = [json.loads(line) for line in page.rows.lines() if "fetched-" in line]
        assert {row["key_id"] for row in rows} == expected[part.name]
        assert {row["account_id"] for row in rows} == {
            f"arn:aws:iam::{part.name}:user/fetched-{number}" for number in (1, 2)
        }
        assert {row["owner"] for row in rows} == {"Payments-Team"}
        assert [row["active"] for row in rows if "active" in row] == [False]
    asked = {network.calls.count(name) for name in ("GetAccountAuthorizationDetails", "GetCredentialReport")}
    assert asked == {2}
    assert "keyless" not in str(network.forms["ListAccessKeys"])


async def test_without_a_list_the_keys_of_the_own_account_are_fetched(aws: Aws) -> None:
    """A fetch that is resumed by the credentials of another account is refused."""
    user, key_id = aws.user()
    cloud = AwsCloud(**aws.settings())
    (part,) = await cloud.parts()
    assert part.name == ACCOUNT
    rows = (await cloud.read(part, "", datetime.now(UTC))).rows.lines()
    assert any(json.loads(row)["key_id"] == key_id and user in row for row in rows)
    with pytest.raises(CloudRefused, match="another account"):
        await cloud.read(part._replace(name=ONE), "", datetime.now(UTC))
