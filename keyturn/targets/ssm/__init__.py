"""AWS Systems Manager Parameter Store, by the credentials and the region that AWS's own tools find."""

from keyturn.execution.protocols import SecretStore
from keyturn.jobs.executor import SecretTarget


def _open() -> SecretStore:
    from keyturn.targets.ssm.store import ParameterStore

    return ParameterStore()


def _check(path: str) -> None:
    from keyturn.targets.ssm.store import expect_name

    expect_name(path)


TARGET = SecretTarget("ssm", path="/PARAMETER/NAME", open=_open, check=_check, extra="aws")
