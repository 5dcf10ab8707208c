"""AWS: IAM access keys, by the credentials and the region that AWS's own tools find."""

from collections.abc import Sequence

from pydantic_settings import BaseSettings

from keyturn.execution.protocols import CloudKeys
from keyturn.jobs.executor import Executor


def _open() -> Sequence[CloudKeys]:
    from keyturn.executors.aws.accounts import open_accounts

    return open_accounts()


def _settings() -> type[BaseSettings]:
    from keyturn.executors.aws.accounts import AwsAccountSettings

    return AwsAccountSettings


EXECUTOR = Executor("aws", kind="access_key", open=_open, settings=_settings, extra="aws")
