"""What an executor has of each cloud account: its keys, its targets, its key map, its freezes and its limits."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from keyturn.application.parked import blocked_jobs
from keyturn.errors import SettingsInvalid
from keyturn.execution.errors import AccountMismatch, KeyMapInvalid, TargetUnusable
from keyturn.execution.limits import Admission, Admit, Group, target_names
from keyturn.execution.lines import lines_of_job
from keyturn.execution.mapping import KeyMap, KeyNames, load_key_map
from keyturn.execution.protocols import CloudKeys, ExecutorSteps
from keyturn.execution.steps import KeyRotation
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.executors import load_executors
from keyturn.freezes.calendar import load_calendar
from keyturn.freezes.store import FreezeStore
from keyturn.jobs.executor import SecretTarget
from keyturn.jobs.in_flight import JobRow, recent_jobs
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.live_files import LiveFile
from keyturn.owners import load_owners
from keyturn.targets import load_targets
from keyturn.waivers.contracts import AppliedWaiver
from keyturn.waivers.jobs import waived_because
from keyturn.workers.executor_settings import ExecutorSettings


def open_keys(settings: ExecutorSettings) -> Sequence[CloudKeys]:
    """Return the keys of each cloud account that the environment's credentials reach.

    Raises:
        SettingsInvalid: the extra that brings its library is not installed.
        ExecutorError: there are no credentials, or no region.
    """
    chosen = load_executors()[settings.executor]
    with _naming_extra(chosen.extra):
        return chosen.open()


def open_targets(settings: ExecutorSettings) -> SecretTargets:
    """Return every target that may be used here, each opened when it is first used."""

    def opener(target: SecretTarget) -> Callable[[], OpenTarget]:
        def open_target() -> OpenTarget:
            try:
                return OpenTarget(target.open(), target.reads_back, target.check)
            except ModuleNotFoundError as error:
                missing = f"{target.name} needs {error.name}: pip install 'keyturn[{target.extra}]'"
                raise TargetUnusable(missing) from None

        return open_target

    return SecretTargets(
        {
            name: opener(target)
            for name, target in load_targets().items()
            if target.for_production or settings.environment == "development"
        }
    )


class Account(NamedTuple):
    """One cloud account of an executor, with the key map of all of them."""

    keys: CloudKeys
    steps: ExecutorSteps
    key_map: Callable[[], KeyMap]


def open_accounts(engine: AsyncEngine, settings: ExecutorSettings) -> Sequence[Account]:
    """Return the executor's accounts, each with its steps.

    Raises:
        SettingsInvalid: the extra that brings a library is not installed.
        CatalogueInvalid, ExecutorError: policy files, key map, calendar or credentials cannot be used.
    """
    catalogue, store = settings.load_catalogue(), FreezeStore(engine)
    calendar, key_map = LiveFile(settings.calendar, load_calendar), LiveFile(settings.key_map, load_key_map)
    targets = open_targets(settings)

    async def frozen(tenant_id: str, cloud_account: str, urgent: bool) -> str | None:
        for freeze in await store.active(tenant_id=tenant_id, cloud_account=cloud_account):
            return f"{freeze['reason']} ({freeze['started_by']}, {freeze['freeze_id']})"
        return calendar().reason_to_wait(datetime.now(UTC), urgent=urgent)

    def steps_of(keys: CloudKeys) -> ExecutorSteps:
        return KeyRotation(
            keys,
            targets,
            JobLeases(engine),
            Outbox(engine),
            default_targets=settings.default_targets,
            key_map=key_map,
            freezes=frozen,
            lines_of=partial(lines_of_job, catalogue),
        )

    opened = open_keys(settings)
    if len(opened) > 1:
        _expect_accounts_named(key_map(), opened[0])
        if unnamed := [path for path in settings.default_targets if "{account}" not in path]:
            raise SettingsInvalid(
                f"KEYTURN_EXECUTOR_TARGETS: {unnamed[0]} has no {{account}}: with several cloud accounts, users of one "
                "name would share a secret"
            )
    return [Account(keys, steps_of(keys), key_map) for keys in opened]


# Which of some jobs are waived.
WaivedAmong = Callable[[Sequence[JobRow]], Awaitable[Mapping[str, AppliedWaiver]]]


def _expect_accounts_named(key_map: KeyMap, keys: CloudKeys) -> None:
    """Check that each table says of which cloud account it is: users of one name are in many. Raises KeyMapInvalid."""
    for number, mapping in enumerate(key_map, 1):
        named = mapping.cloud_account or keys.account_named_in(mapping.account) or "*"
        if "*" in named:
            raise KeyMapInvalid(
                f"[[key]] {number}, {mapping.account}: the executor has several cloud accounts, and a user of this "
                "name may be in each: add its cloud_account"
            )


def admission_of(
    client: Client,
    engine: AsyncEngine,
    settings: ExecutorSettings,
    account: Account,
    cloud_account: str,
    *,
    waived: WaivedAmong,
) -> Admit:
    """Return what makes the admission of each look: the limits, with what is in flight in the account then."""
    keys, key_map, defaults = account.keys, account.key_map, settings.default_targets
    owners = load_owners()

    def group_of(job: JobRow) -> Group:
        try:
            user = keys.user_of(job.account_id, cloud_account)
        except AccountMismatch:
            user = job.account_id
        tables = key_map().find_all(KeyNames(frozenset({job.account_id, user}), job.key_id, cloud_account))
        mapping = tables[0] if tables else None  # of several, all are of the account's owner
        owner = (mapping.owner if mapping is not None else None) or owners.owner_of(
            job.account_id, job.key_id, job.recorded_owner
        )
        paths = defaults if mapping is None or not mapping.targets else mapping.targets
        return Group(owner or f"the account {cloud_account}", target_names(paths))

    async def admit() -> Admission:
        rows = await recent_jobs(engine, tenant_id=settings.tenant, kind=settings.kind)
        own = [row for row in rows if keys.account_named_in(row.account_id) in {None, cloud_account}]
        blocked = set(await blocked_jobs(client, task_queue=settings.queue(cloud_account)))
        exempt = {job_id: waived_because(waiver) for job_id, waiver in (await waived(own)).items()}
        return Admission(settings.blast_radius, own, group_of, blocked=blocked, now=datetime.now(UTC), waived=exempt)

    return admit


@contextmanager
def _naming_extra(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise SettingsInvalid(f"{error.name} is not installed: pip install 'keyturn[{extra}]'") from None
