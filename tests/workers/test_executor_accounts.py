"""What an executor checks before it looks for jobs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from keyturn.errors import SettingsInvalid
from keyturn.execution.errors import KeyMapInvalid, PolicyLineMissing
from keyturn.execution.limits import BlastRadius
from keyturn.execution.lines import lines_of_job
from keyturn.execution.mapping import KeyMap
from keyturn.execution.protocols import CloudKeys
from keyturn.jobs.store import JobStore
from keyturn.owners import Owners
from keyturn.policy.catalogue import load_catalogue
from keyturn.waivers.granting import new_waiver
from keyturn.waivers.jobs import WaivedJobs
from keyturn.waivers.store import WaiverStore
from keyturn.workers import executor_accounts
from keyturn.workers.executor_accounts import Account, admission_of, open_accounts
from keyturn.workers.executor_settings import ExecutorSettings
from tests.support.cases import order


class Keys:
    """The keys of an account, as far as they are asked when it is opened."""

    state_shown_within = timedelta(0)

    def account_named_in(self, account_id: str) -> str | None:
        return account_id.split(":")[4] if account_id.startswith("arn:") else None


@pytest.mark.parametrize(
    ("table", "targets", "fault"),
    [
        ('account = "svc"', "vault:{account}/{user}", r"\[\[key\]\] 1, svc: .* add its cloud_account"),
        (
            'account = "arn:aws:iam::*:user/svc"\ntargets = ["vault:a/{user}"]',
            "vault:{account}/{user}",
            "several cloud",
        ),
        ('account = "svc"\ncloud_account = "1*"', "vault:{account}/{user}", "cloud_account"),
        ('account = "svc"\ncloud_account = "111111111111"', "vault:keyturn/{user}", r"has no \{account\}"),
        ('account = "arn:aws:iam::111111111111:user/svc"', "vault:{account}/{user}", None),
    ],
)
async def test_with_several_accounts_users_of_one_name_never_share_a_secret(
    sqlite_engine: AsyncEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    targets: str,
    fault: str | None,
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f"[[key]]\n{table}\n")
    settings = ExecutorSettings().model_copy(update={"targets": targets, "key_map": file})
    several = cast(list[CloudKeys], [Keys(), Keys()])
    monkeypatch.setattr(executor_accounts, "open_keys", lambda _settings: several)
    if fault is None:
        assert len(open_accounts(sqlite_engine, settings)) == 2
    else:
        with pytest.raises((KeyMapInvalid, SettingsInvalid), match=fault):
            open_accounts(sqlite_engine, settings)


def test_the_waits_of_a_job_are_those_of_its_lines_as_they_are_now() -> None:
    """A line that was raised to a new version still counts, and one that is gone is waited for, not left out."""
    catalogue = load_catalogue()
    line: Any = next(iter(catalogue))
    current = lines_of_job(catalogue, [f"{line.id}@0", str(line.ref)])
    assert [str(one.ref) for one in current] == [str(line.ref)] * 2
    with pytest.raises(PolicyLineMissing, match="NOT-THERE"):
        lines_of_job(catalogue, ["NOT-THERE@1"])


async def test_a_look_for_jobs_leaves_those_of_waived_keys_alone(
    temporal: Client, engine: AsyncEngine, store: JobStore
) -> None:
    """It asks for waivers each time; the job says which one holds it back."""
    ordered = order(account_id="svc-pay-1")
    job_id = (await store.create_once(ordered, idempotency_key="r:1", fence=1)).job_id
    settings = cast("Any", SimpleNamespace(tenant="default", kind=ordered.credential.kind, default_targets=()))
    settings.queue, settings.blast_radius = (
        (lambda _account: "none"),
        BlastRadius(most=9, most_percent=100, most_per_owner=9, most_per_target=9, canaries=0, stop_after_failures=0),
    )
    keys = cast("Any", SimpleNamespace(user_of=lambda account, _cloud: account, account_named_in=lambda _account: None))
    account = Account(keys, cast("Any", None), KeyMap)
    waived = WaivedJobs(engine, Owners(), load_catalogue(), tenant_id="default").among
    admit = admission_of(temporal, engine, settings, account, "1", waived=waived)
    assert (await admit()).refuse(job_id) is None
    fields = {"tenant_id": "default", "account": "svc-pay-*", "reason": "a freeze", "granted_by": "omar"}
    waiver = new_waiver(load_catalogue(), fields | {"until": datetime.now(UTC) + timedelta(days=5)})
    await WaiverStore(engine).add(waiver)
    waived = WaivedJobs(engine, Owners(), load_catalogue(), tenant_id="default").among
    admit = admission_of(temporal, engine, settings, account, "1", waived=waived)
    assert waiver.waiver_id in str((await admit()).refuse(job_id))
