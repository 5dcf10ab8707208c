"""Many AWS accounts by one process: a role in each, assumed with a session name and an external ID.

Which accounts: KEYTURN_AWS_ACCOUNTS, their numbers, or `organization` for every active one that Organizations
lists. Without it, the one account of the executor's own credentials.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import boto3
import botocore.loaders
import botocore.session
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings

from keyturn.aws import ONE_TRY, ask_now, client_of
from keyturn.errors import SettingsInvalid
from keyturn.executors.aws.iam import AwsAccessKeys
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults

# An hour is what AWS gives at most where a role assumes a role; fresh ones are fetched some minutes before their end.
SESSION_SECONDS = 3_600
ORGANIZATION = "organization"
_CREDENTIALS = {"aws_access_key_id", "aws_secret_access_key", "aws_session_token"}


def _accounts(value: str) -> str:
    names = value.split()
    if value and names != [ORGANIZATION] and not all(len(name) == 12 and name.isdecimal() for name in names):
        raise ValueError(f"is neither numbers of 12 digits, separated by spaces, nor {ORGANIZATION}")
    if len(set(names)) < len(names):
        raise ValueError("names an account twice")
    return value


class AwsAccountSettings(BaseSettings):
    """Which AWS accounts an executor serves; their credentials are found as AWS's own tools find them."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    accounts: Annotated[str, AfterValidator(_accounts)] = Field(
        default="",
        alias="KEYTURN_AWS_ACCOUNTS",
        description="The AWS accounts, separated by spaces, or `organization`.  Default: that of the credentials.",
    )
    role: str = Field(
        default="keyturn-executor",
        alias="KEYTURN_AWS_ROLE",
        pattern=r"^[A-Za-z0-9_+=,.@/-]+$",
        max_length=512,
        description="The name of the role that the executor assumes in each account, with its path.",
    )
    external_id: SecretStr | None = Field(
        default=None,
        alias="KEYTURN_AWS_EXTERNAL_ID",
        description="The external ID that the roles' trust policies require, of 2 to 1,224 characters.",
    )
    session_name: str = Field(
        default="keyturn",
        alias="KEYTURN_AWS_SESSION_NAME",
        pattern=r"^[A-Za-z0-9_+=,.@-]{2,64}$",
        description="The name of the executor's sessions in CloudTrail.",
    )


def open_accounts(**settings: Any) -> Sequence[AwsAccessKeys]:
    """Return the access keys of each account; `settings` are arguments of boto3's clients, for tests.

    Raises:
        SettingsInvalid: a setting cannot be used.
        CloudRefused, CloudUnavailable: Organizations did not list the accounts.
    """
    chosen = aws_account_settings()
    if not chosen.accounts:
        return [AwsAccessKeys(**settings)]
    numbers = account_numbers(chosen, **settings)
    return [
        AwsAccessKeys(session=session_in(number, chosen, **settings), **without_credentials(settings))
        for number in numbers
    ]


def aws_account_settings() -> AwsAccountSettings:
    """Return the settings of the environment; raises SettingsInvalid."""
    try:
        return AwsAccountSettings()
    except ValidationError as error:
        faults = field_faults(error)
    raise SettingsInvalid("\n".join(faults))


def account_numbers(chosen: AwsAccountSettings, **settings: Any) -> list[str]:
    """Return the numbers of the accounts that are named, or that Organizations lists; raises as `open_accounts`."""
    return list(_active_accounts(settings)) if chosen.accounts == ORGANIZATION else chosen.accounts.split()


def _active_accounts(settings: dict[str, Any]) -> Iterator[str]:
    """The active accounts of the organization, the management account included."""
    client, token = client_of("organizations", settings), None
    while True:
        page = ask_now(functools.partial(client.list_accounts, **({"NextToken": token} if token else {})))
        for account in page["Accounts"]:
            # `Status` was announced to end in September 2026; an older service has no `State`.
            if account.get("State", account.get("Status")) == "ACTIVE":
                yield account["Id"]
        token = page.get("NextToken")  # a page may be empty and have one
        if token is None:
            return


def session_in(number: str, chosen: AwsAccountSettings, **settings: Any) -> boto3.session.Session:
    """Return a session whose credentials are those of the role in an account, renewed by themselves.

    Not for two threads at once, as clients are not either.
    """
    own = {name: value for name, value in settings.items() if name in _CREDENTIALS or name == "region_name"}
    source = boto3.session.Session(botocore_session=_light_session(), **own)
    arguments: dict[str, Any] = {"RoleSessionName": chosen.session_name, "DurationSeconds": SESSION_SECONDS}
    if chosen.external_id is not None:
        arguments["ExternalId"] = chosen.external_id.get_secret_value()
    partition = source.get_partition_for_region(source.region_name) if source.region_name else "aws"
    sts = functools.partial(source.client, config=ONE_TRY, **without_credentials(settings))
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=sts,
        source_credentials=source.get_credentials(),
        role_arn=f"arn:{partition}:iam::{number}:role/{chosen.role}",
        extra_args=arguments,
    )
    inner = _light_session()
    inner._credentials = DeferredRefreshableCredentials(method="assume-role", refresh_using=fetcher.fetch_credentials)
    return boto3.session.Session(botocore_session=inner, region_name=source.region_name)


def _light_session() -> Any:
    """Return a session of botocore's that reads AWS's descriptions of services, a tenth of a second each, only once."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    return session


_loader = functools.cache(botocore.loaders.create_loader)


def without_credentials(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of clients without the process's own credentials: a role's are used in their place."""
    return {name: value for name, value in settings.items() if name not in _CREDENTIALS}
