"""AWS: IAM access keys, by the credentials and the region that AWS's own tools find."""

from keyturn.execution.contracts import ExecutorSteps, SecretStore
from keyturn.jobs.executor import Executor
from keyturn.jobs.leases import JobLeases


def _open(leases: JobLeases, secrets: SecretStore, secret_name: str) -> ExecutorSteps:
    from keyturn.executors.aws.iam import AwsAccessKeys
    from keyturn.executors.aws.steps import AccessKeyRotation

    return AccessKeyRotation(AwsAccessKeys(), secrets, leases, secret_name=secret_name)


async def _account() -> str:
    from keyturn.executors.aws.iam import AwsAccessKeys

    return await AwsAccessKeys().account()


EXECUTOR = Executor("aws", kind="access_key", open=_open, extra="aws", account=_account)
