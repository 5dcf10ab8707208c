"""The key map: which table is about a key, and what is refused before anything is created."""

from datetime import timedelta
from pathlib import Path

import pytest

from keyturn.execution.contracts import KeyWaits
from keyturn.execution.errors import KeyMapInvalid, MappedTwice
from keyturn.execution.mapping import KeyMap, KeyMapping, KeyNames, load_key_map, names_of
from keyturn.execution.waits import waits_of

ARN = "arn:aws:iam::123456789012:user/svc-pay"
PAY = KeyNames(frozenset({ARN, "svc-pay"}), "AKIA1", "123456789012")


def load(tmp_path: Path, text: str) -> KeyMap:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    return load_key_map(file)


def test_a_key_is_named_by_its_account_its_user_its_id_or_a_pattern() -> None:
    def names(**table: object) -> bool:
        return KeyMapping.model_validate(table).names(PAY)

    assert names(account=ARN)
    assert names(account="svc-pay")
    assert names(account="svc-*")
    assert names(account="svc-pay", key_id="AKIA1")
    assert names(account="svc-pay", cloud_account="123456789012")
    assert not names(account="svc")
    assert not names(account="svc-pay", key_id="AKIA2")
    assert not names(account="svc-pay", cloud_account="210987654321")
    assert not names(account="svc-[p]ay")  # no other sign than * stands for others
    assert not names(account="svc-pa?")


@pytest.mark.parametrize(
    ("whole", "cloud_account", "job", "is_named"),
    [
        (ARN, "123456789012", "svc-pay", True),
        (ARN, "210987654321", "svc-pay", False),
        (ARN, "123456789012", "pay", False),
        ("arn:aws:iam::123456789012:user/apps/svc-pay", "123456789012", "svc-pay", True),
        ("tenants/t-1/applications/app-1", "t-1", "app-1", True),
        ("7301234567890123456/app", "7301234567890123456", "app", True),
        ("projects/example.com:lab/serviceAccounts/1", "example.com:lab", "1", True),
        ("projects/lab/serviceAccounts/1", "la", "1", False),
        (ARN, None, "svc-pay", True),
        (ARN, None, "arn:aws:iam::210987654321:user/svc-pay", False),
    ],
)
def test_a_table_with_a_whole_name_is_about_the_job_that_has_its_last_part_alone(
    tmp_path: Path, whole: str, cloud_account: str | None, job: str, is_named: bool
) -> None:
    """The executor knows its account; an inventory may not, and then a whole name of another account is another key."""
    key_map = load(tmp_path, f"[[key]]\naccount = '{whole}'\nowner = 'payments'\n")
    key = KeyNames(names_of(job), "AKIA1", cloud_account)
    assert (key_map.find(key) is not None) == is_named
    if cloud_account is None:
        assert (key_map.owner_of(job, "AKIA1") == "payments") == is_named


def test_an_account_with_two_keys_has_a_table_for_each(tmp_path: Path) -> None:
    text = """
        [[key]]
        account = "svc-pay"
        targets = ["vault:secret/one"]
        [[key]]
        account = "svc-pay"
        targets = ["vault:secret/two"]
    """
    key_map = load(tmp_path, text)
    assert [one.targets for one in key_map.find_all(PAY)] == [("vault:secret/one",), ("vault:secret/two",)]
    with pytest.raises(MappedTwice, match="tables 1 and 2 both name the job's key"):
        key_map.find(PAY)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", r"has no \[\[key\]\]"),
        ("[key]\naccount = 'svc'", r"has no \[\[key\]\]"),
        ("[[keys]]\naccount = 'svc'", "has keys, which nothing reads"),
        ("[[key]", "is not TOML"),
        ("[[key]]\nowner = 'payments'", r"\[\[key\]\] 1: account"),
        ("[[key]]\naccount = 'svc '", r"\[\[key\]\] 1: account"),  # names no key, in silence
        ("[[key]]\naccount = 'svc'\ntarget = ['vault:secret/x']", r"\[\[key\]\] 1: target"),
        ("[[key]]\naccount = 'svc'\ntargets = ['x']", r"\[\[key\]\] 1: targets"),
        ("[[key]]\naccount = 'svc'\ntargets = ['vault:a/b', 'vault:a/b']", "targets has an entry twice"),
        ("[[key]]\naccount = 'svc'\nconsumers = ['a', 'a']", "consumers has an entry twice"),
        ("[[key]]\naccount = '*'\ntargets = ['vault:a/b']", "a table for many accounts has {user} once in each"),
        ("[[key]]\naccount = 'svc'\ntargets = ['vault:a/{name}']", "only {user} and {account} are replaced"),
        ("[[key]]\naccount = 'svc'\noverlap_hours = -1", r"\[\[key\]\] 1: overlap_hours"),
        ("[[key]]\naccount = 'svc'\n[[key]]\naccount = 'svc'", "names the same key as .* 1 does"),
        (
            "[[key]]\naccount = 'a'\ntargets = ['vault:a/b']\n[[key]]\naccount = 'c'\ntargets = ['vault:a/b']",
            "names the target vault:a/b as .* 1 does",
        ),
        (
            "[[key]]\naccount = 'a'\ntargets = ['kubernetes:n/s?key=A']\n"
            "[[key]]\naccount = 'c'\ntargets = ['kubernetes:n/s?restart=deployment/x']",
            "names the target kubernetes:n/s as .* 1 does",
        ),
    ],
)
def test_a_map_that_cannot_be_right_is_refused_as_a_whole(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(KeyMapInvalid, match=fault):
        load(tmp_path, text)


def test_a_map_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyMapInvalid, match=r"nowhere\.toml cannot be read: No such file"):
        load_key_map(tmp_path / "nowhere.toml")
    assert list(load_key_map(None)) == []


def test_the_longest_wait_counts() -> None:
    mapping = KeyMapping(account="svc", overlap_hours=48, grace_hours=1)
    waits = waits_of(KeyWaits(), lines=(), mapping=mapping, is_compromised=False)
    assert (waits.overlap.total_seconds(), waits.grace.total_seconds()) == (48 * 3_600, 3_600)
    assert waits.quiet == waits.overlap, "a consumer that needs so long uses the old key so seldom"
    assert waits_of(KeyWaits(), lines=(), mapping=None, is_compromised=True) == KeyWaits()
    longer = KeyWaits(overlap=timedelta(hours=2), quiet=timedelta(hours=5))
    assert waits_of(longer, lines=(), mapping=None, is_compromised=False) == longer
