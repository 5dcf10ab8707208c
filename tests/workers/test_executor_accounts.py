"""What an executor checks before it looks for jobs."""

from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.errors import SettingsInvalid
from keyturn.execution.errors import KeyMapInvalid, PolicyLineMissing
from keyturn.execution.lines import lines_of_job
from keyturn.execution.protocols import CloudKeys
from keyturn.policy.catalogue import load_catalogue
from keyturn.workers import executor_accounts
from keyturn.workers.executor_accounts import open_accounts
from keyturn.workers.executor_settings import ExecutorSettings


class Keys:
    """The keys of an account, as far as they are asked when it is opened."""

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
