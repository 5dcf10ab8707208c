"""Inventories in the dialects of the clouds: each row whole or not at all, and each bad one with its reason."""

import base64
import contextlib
import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyturn.bulk.load import items_of
from keyturn.contracts import CredentialFacts, Idle
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.read import read, recognise_source
from keyturn.inventory.rejects import Rejects
from keyturn.inventory.rows import BadRow, InventoryKey
from keyturn.inventory.scans import read_scans
from keyturn.inventory.source import Inventory
from keyturn.inventory.sources import load_sources
from keyturn.policy.catalogue import load_catalogue
from keyturn.policy.line import PolicyLine
from keyturn.policy.rules import RuleFinding, apply_rules

if TYPE_CHECKING:
    from tests.support.aws import Aws

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
SLOT = "active,last_rotated,last_used_date,last_used_region,last_used_service"
HEADER = ",".join(
    [
        "user,arn,user_creation_time,password_enabled,password_last_used,password_last_changed,password_next_rotation,mfa_active",
        *(",".join(f"access_key_{slot}_{name}" for name in SLOT.split(",")) for slot in (1, 2)),
        "cert_1_active,cert_1_last_rotated,cert_2_active,cert_2_last_rotated",
    ]
)
NONE = "false,N/A,N/A,N/A,N/A"


def report_row(user: str, first: str = NONE, second: str = NONE, *, arn: str | None = None) -> str:
    arn = arn or f"arn:aws:iam::123456789012:user/{user}"
    return f"{user},{arn},2020-01-01T00:00:00Z,false,N/A,N/A,N/A,false,{first},{second},false,N/A,false,N/A"


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | bytes, name: str = "inventory") -> Path:
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def keys_of(file: Path, **options: Any) -> list[InventoryKey]:
    rows = list(read(Inventory(file, **{"observed_at": NOW} | options)))
    assert [row for row in rows if isinstance(row, BadRow)] == []
    return [row for row in rows if isinstance(row, InventoryKey)]


def bad_of(file: Path, **options: Any) -> list[tuple[int, str]]:
    rows = read(Inventory(file, **{"observed_at": NOW} | options))
    return [(row.line, row.reason) for row in rows if isinstance(row, BadRow)]


# -- AWS -------------------------------------------------------------------------------------------------------------


def test_a_credential_report_in_the_live_dialect_is_read_by_its_column_names(written: Callable[..., Path]) -> None:
    """The root row, `Z` and `+00:00`, truths in any case, inactive keys with dates, no newline at the end, a BOM."""
    root = "<root_account>,arn:aws:iam::123456789012:root"
    rows = [
        f"{root},2015-01-01T00:00:00+00:00,not_supported,2026-01-01T00:00:00Z,not_supported,not_supported,true,"
        f"{NONE},{NONE},false,N/A,false,N/A",
        report_row("both", "true,2026-01-01T00:00:00Z,2026-11-20T08:00:00+00:00,eu-west-1,s3",
                   "FALSE,2025-01-01T00:00:00+00:00,N/A,N/A,N/A"),
        report_row("old", "TRUE,2014-01-01T00:00:00Z,N/A,N/A,N/A"),
        report_row("unknown", "true,2026-01-01T00:00:00Z,no_information,N/A,N/A"),
        report_row("none"),
    ]  # fmt: skip
    file = written("\ufeff" + HEADER + ",additional_credentials_info\n" + ",N/A\n".join(rows) + ",")
    assert recognise_source(file) == "aws"
    both, inactive, old, unknown = keys_of(file)
    assert both.account_id == "arn:aws:iam::123456789012:user/both"
    assert both.facts.key_id == "access_key.20260101T000000Z"
    assert (both.facts.kind, both.facts.source, both.idle) == ("access_key", "aws-credential-report", None)
    assert both.facts.last_used_at == datetime(2026, 11, 20, 8, tzinfo=UTC)
    assert inactive.idle == "inactive"
    # "N/A" of a key from before AWS wrote uses down is no proof that it was never used.
    assert [key.facts.never_used for key in (both, inactive, old, unknown)] == [False, True, False, False]


def test_key_ids_are_joined_by_user_and_creation_date(written: Callable[..., Path]) -> None:
    """From one or many outputs of list-access-keys; a key that the list does not have makes the whole row a reject."""
    active = "true,2026-01-01T00:00:00Z,N/A,N/A,N/A"
    file = written(
        f"{HEADER}\n{report_row('svc', active)}\n{report_row('other', active, active.replace('-01T', '-02T'))}\n"
    )
    listing = [
        {"AccessKeyMetadata": [{"UserName": user, "AccessKeyId": f"AKIA{user}", "Status": "Active",
                                "CreateDate": "2026-01-01T00:00:00+00:00"}], "IsTruncated": False}
        for user in ("svc", "other")
    ]  # fmt: skip
    ids = written("\n".join(map(json.dumps, listing)), "keys.json")
    rows = list(read(Inventory(file, observed_at=NOW, access_keys=ids)))
    first, second = rows
    assert isinstance(first, InventoryKey)
    assert first.facts.key_id == "AKIAsvc"
    assert isinstance(second, BadRow), "one key of two is not enough: a row is never half used"
    assert "access_key_2: the list of access keys has none" in second.reason


def test_two_keys_that_were_made_in_one_second_are_joined_to_neither(written: Callable[..., Path]) -> None:
    """By user and second they cannot be distinguished; the wrong one might be rotated."""
    active = "true,2026-01-01T00:00:00Z,N/A,N/A,N/A"
    file = written(f"{HEADER}\n{report_row('svc', active)}\n")
    twins = [{"UserName": "svc", "AccessKeyId": f"AKIA{number}", "CreateDate": "2026-01-01T00:00:00+00:00"}
             for number in (1, 2)]  # fmt: skip
    ids = written(json.dumps({"AccessKeyMetadata": twins}), "keys.json")
    (row,) = read(Inventory(file, observed_at=NOW, access_keys=ids))
    assert isinstance(row, BadRow)
    assert "access_key_1: the list of access keys has two" in row.reason


def test_the_answer_of_get_credential_report_tells_its_own_time(written: Callable[..., Path]) -> None:
    """The report is up to four hours old when it is fetched: that time is the evidence's age."""
    content = f"{HEADER}\n{report_row('svc', 'true,2026-01-01T00:00:00Z,N/A,N/A,N/A')}"
    answer = {"Content": base64.b64encode(content.encode()).decode(), "ReportFormat": "text/csv",
              "GeneratedTime": "2026-11-21T06:30:00+00:00"}  # fmt: skip
    file = written(json.dumps(answer))
    (key,) = keys_of(file, observed_at=None)
    assert key.facts.observed_at == datetime(2026, 11, 21, 6, 30, tzinfo=UTC)


def test_a_report_that_a_real_service_makes_is_read(aws: "Aws", written: Callable[..., Path]) -> None:
    """Made by moto, fetched by boto3, joined with its list of keys."""
    users = [aws.user() for _ in range(3)]
    iam = aws.client("iam")
    iam.update_access_key(UserName=users[2][0], AccessKeyId=users[2][1], Status="Inactive")
    while iam.generate_credential_report()["State"] != "COMPLETE":
        pass
    report = written(iam.get_credential_report()["Content"], "report.csv")
    listing = [iam.list_access_keys(UserName=user)["AccessKeyMetadata"] for user, _ in users]
    ids = written("".join(json.dumps({"AccessKeyMetadata": keys}, default=str) for keys in listing), "keys.json")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    rows = list(read(Inventory(report, observed_at=tomorrow, access_keys=ids)))
    found = {row.facts.key_id: row for row in rows if isinstance(row, InventoryKey)}
    assert {key for _, key in users} <= set(found)
    assert [found[key].idle for _, key in users] == [None, None, "inactive"]


@pytest.mark.parametrize(
    ("slot", "reason"),
    [
        ("true,N/A,N/A,N/A,N/A", "access_key_1_last_rotated: an active key has a date"),
        ("maybe,2026-01-01T00:00:00Z,N/A,N/A,N/A", "access_key_1_active: is neither true nor false"),
        ("true,yesterday,N/A,N/A,N/A", "access_key_1_last_rotated: is not a moment"),
        ("true,2026-01-01T00:00:00,N/A,N/A,N/A", "access_key_1_last_rotated: has no time zone"),
        ("true,2027-01-01T00:00:00Z,N/A,N/A,N/A", "last_rotated_at is later than observed_at"),
        ("true,2026-01-01T00:00:00Z,2026-12-01T00:00:00Z,eu,s3", "last_used_at is later than observed_at"),
        ("true,2026-01-01T00:00:00Z", "has 19 cells, and the header 22"),
    ],
)
def test_a_bad_row_is_reported_by_line_and_reason_and_the_good_ones_go_on(
    written: Callable[..., Path], slot: str, reason: str
) -> None:
    good = report_row("svc", "true,2026-01-01T00:00:00Z,N/A,N/A,N/A")
    file = written("\n".join([HEADER, good, report_row("bad", slot), good.replace("svc", "svc2")]))
    ((line, message),) = bad_of(file)
    assert (line, message[: len(reason)]) == (3, reason)
    assert len([row for row in read(Inventory(file, observed_at=NOW)) if isinstance(row, InventoryKey)]) == 2


# -- Google Cloud, Azure ---------------------------------------------------------------------------------------------

GCLOUD = [
    {"name": "projects/p/serviceAccounts/a@p.iam.gserviceaccount.com/keys/k1", "validAfterTime": "2026-01-01T00:00:00Z",
     "validBeforeTime": "9999-12-31T23:59:59Z", "keyType": "USER_MANAGED", "keyAlgorithm": "KEY_ALG_RSA_2048"},
    {"name": "projects/p/serviceAccounts/a@p.iam.gserviceaccount.com/keys/k2", "validAfterTime": "2026-11-01T00:00:00Z",
     "keyType": "SYSTEM_MANAGED"},
    {"name": "projects/p/serviceAccounts/a@p.iam.gserviceaccount.com/keys/k3", "validAfterTime": "2026-01-01T00:00:00Z",
     "keyType": "USER_MANAGED", "disabled": True},
    {"name": "projects/p/serviceAccounts/a@p.iam.gserviceaccount.com/keys/k4", "validAfterTime": "2026-11-20T00:00:00Z",
     "keyType": "USER_MANAGED", "disabled": True, "disableReason": "SERVICE_ACCOUNT_KEY_DISABLE_REASON_EXPOSED"},
]  # fmt: skip


@pytest.mark.parametrize("shape", ["array", "object", "pretty", "lines"])
def test_a_listing_of_gcloud_is_read_in_each_shape(written: Callable[..., Path], shape: str) -> None:
    """As the command prints it, as REST answers, and line by line; an exposed key is compromised, whatever its age."""
    texts = {
        "array": json.dumps(GCLOUD),
        "object": json.dumps({"keys": GCLOUD}, indent=1),
        "pretty": json.dumps(GCLOUD, indent=2),
        "lines": "\n".join(map(json.dumps, GCLOUD)),
    }
    file = written(texts[shape])
    assert recognise_source(file) == ("jsonl" if shape == "lines" else "gcloud")
    keys = keys_of(file)
    assert [key.facts.key_id for key in keys] == ["k1", "k2", "k3", "k4"]
    assert {key.account_id for key in keys} == {"a@p.iam.gserviceaccount.com"}
    assert [key.idle for key in keys] == [None, "system_managed", "inactive", "inactive"]
    assert [key.facts.compromised for key in keys] == [None, None, None, True]


def test_a_listing_of_azure_needs_its_application_and_loses_its_hints(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    """The first letters of a secret are not read, and not written among the rejects either."""
    rows = [
        {
            "keyId": "0f3c",
            "displayName": "ci",
            "startDateTime": "2026-01-01T00:00:00Z",
            "hint": "hun",
            "secretText": None,
        },
        {"keyId": "", "startDateTime": "2026-01-01T00:00:00Z", "hint": "hunter2", "secretText": "hunter2"},
    ]
    file = written(json.dumps(rows))
    assert recognise_source(file) == "azure"
    found = list(read(Inventory(file, observed_at=NOW, account_id="app-1")))
    first, second = found
    assert isinstance(first, InventoryKey)
    assert (first.account_id, first.facts.key_id, first.facts.source) == ("app-1", "0f3c", "azure")
    assert "hun" not in repr(first)
    assert isinstance(second, BadRow)
    rejects = Rejects(tmp_path / "rejects.jsonl")
    rejects.add(second)
    rejects.close()
    assert "hunter2" not in (tmp_path / "rejects.jsonl").read_text()
    assert {reason for _, reason in bad_of(file)} == {"the listing names no application: give its appId as --account"}


# -- the plain form --------------------------------------------------------------------------------------------------


def test_a_spreadsheet_has_the_columns_of_the_evidence(written: Callable[..., Path]) -> None:
    """Empty cells are what is not known; each row may have its own time and source."""
    text = (
        "account_id,key_id,kind,last_rotated_at,age_days,stale,compromised,active,observed_at,source\n"
        "acct_1,key_1,,2026-01-01T00:00:00Z,,TRUE,,,,\n"
        "acct_2,key_2,access_key,,40,false,true,false,2026-11-20T00:00:00Z,vault\n"
    )
    first, second = keys_of(written(text, "keys.csv"))
    assert (first.facts.kind, first.facts.stale, first.facts.compromised) == ("service_account_key", True, None)
    assert (second.facts.age_days, second.facts.compromised, second.idle) == (40, True, "inactive")
    assert (second.facts.source, second.facts.observed_at.day) == ("vault", 20)


def test_a_misspelt_column_is_refused_because_its_evidence_would_be_ignored(written: Callable[..., Path]) -> None:
    with pytest.raises(InventoryInvalid, match="'compromissed', which is none of"):
        keys_of(written("account_id,key_id,compromissed\na,b,true\n"))
    ((_, reason),) = bad_of(written('{"account_id": "a", "key_id": "b", "compromissed": true}\n'))
    assert reason.startswith("'compromissed' is no column")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"account_id": "a\u202eb", "key_id": "k"}, "account_id: may hold letters"),
        ({"account_id": "a", "key_id": "k\n"}, "key_id: "),
        ({"account_id": "a", "key_id": "k" * 300}, "key_id: "),
        ({"account_id": "a", "key_id": ""}, "key_id: is missing"),
        ({"key_id": "k"}, "account_id: is missing"),
        ({"account_id": "a", "key_id": "k", "kind": "password"}, "kind: is none of"),
        ({"account_id": "a", "key_id": "k", "age_days": "٣"}, "age_days: is not a whole number"),
        ({"account_id": "a", "key_id": "k", "age_days": -1}, "age_days: "),
        ({"account_id": "a", "key_id": "k", "last_used_at": 5}, "last_used_at: is not a moment"),
        ({"account_id": "a", "key_id": "k", "stale": "perhaps"}, "stale: is neither true nor false"),
        ({"account_id": {"$ne": 1}, "key_id": "k"}, "account_id: "),
        ({"account_id": "=cmd()", "key_id": "k"}, "account_id: may hold letters"),
    ],
)
def test_a_hostile_row_is_a_reject_that_repeats_nothing(
    written: Callable[..., Path], row: dict[str, Any], reason: str
) -> None:
    """Control and bidi characters, formulas, objects, foreign digits, what is too long or missing."""
    ((line, message),) = bad_of(written(json.dumps(row) + "\n"))
    assert (line, message[: len(reason)]) == (1, reason)


def test_lines_that_are_no_rows_are_rejects_and_the_rest_is_read(written: Callable[..., Path]) -> None:
    """Not JSON, not an object, nested beyond reason, longer than a row can be."""
    lines = ["{", "[1]", '{"a":' * 5_000, '"' + "x" * 1_200_000 + '"', '{"account_id": "a", "key_id": "k"}']
    file = written("\n".join(lines))
    rows = list(read(Inventory(file, observed_at=NOW, format="jsonl")))
    assert [row.line for row in rows if isinstance(row, BadRow)] == [1, 2, 3, 4]
    assert [row.line for row in rows if isinstance(row, InventoryKey)] == [5]


@pytest.mark.parametrize("form", load_sources())
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe",
        b"[",
        b'[{"a":1}',
        b"user,arn\n1,2\n",
        b'{"GeneratedTime":1}',
        b"\x1f\x8b\x08\x00",
        b'"',
        b"{}",
    ],
    ids=["empty", "bytes", "open", "cut", "columns", "no report", "gzip", "quote", "object"],
)
def test_a_file_that_is_none_ends_in_a_named_refusal_or_rejects(
    written: Callable[..., Path], form: Any, content: bytes
) -> None:
    """Whatever format is claimed for it: no traceback, and no key."""
    file = written(content)
    keys: list[InventoryKey] = []
    with contextlib.suppress(InventoryInvalid):
        for row in read(Inventory(file, format=form, observed_at=NOW)):
            keys += [row] if isinstance(row, InventoryKey) else []
    assert keys == []


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=400), form=st.sampled_from(sorted(load_sources())))
def test_any_bytes_are_read_to_an_end(tmp_path_factory: pytest.TempPathFactory, content: bytes, form: Any) -> None:
    """By every format: keys, rejects, or a named refusal."""
    file = tmp_path_factory.getbasetemp() / "any_bytes"
    file.write_bytes(content)
    with contextlib.suppress(InventoryInvalid):
        for row in read(Inventory(file, format=form, observed_at=NOW)):
            assert isinstance(row, (InventoryKey, BadRow))


@pytest.mark.parametrize("form", ["csv", "aws", "jsonl"])
def test_rejects_are_mended_and_read_again(written: Callable[..., Path], tmp_path: Path, form: str) -> None:
    """The file of rejects is of the same format; what is fixed in it becomes a key, and nothing else is asked for."""
    bad = {
        "csv": "account_id,key_id,stale\na,k1,maybe\n",
        "aws": f"{HEADER}\n{report_row('a', 'maybe,2026-01-01T00:00:00Z,N/A,N/A,N/A')}\n",
        "jsonl": '{"account_id": "a", "key_id": "k1", "stale": "maybe"}\n',
    }
    file = written(bad[form], f"keys.{'jsonl' if form == 'jsonl' else 'csv'}")
    rejects = Rejects(tmp_path / f"rejects{file.suffix}")
    for row in read(Inventory(file, observed_at=NOW)):
        assert isinstance(row, BadRow)
        rejects.add(row)
    rejects.close()
    fixed = written((tmp_path / f"rejects{file.suffix}").read_text().replace("maybe", "true"), f"fixed{file.suffix}")
    (key,) = keys_of(fixed)
    assert key.account_id in {"a", "arn:aws:iam::123456789012:user/a"}


def test_a_key_that_stands_twice_is_used_once(written: Callable[..., Path]) -> None:
    """The second row is a reject."""
    file = written("account_id,key_id,stale\na,k,true\nb,k,true\na,k,false\n")
    rejected: list[BadRow] = []
    items = list(items_of(read(Inventory(file, observed_at=NOW)), [], always_ask=True, reject=rejected.append))
    assert [item["ask"] for item in items if "ask" in item] == [1, 2]
    assert [(row.line, row.reason) for row in rejected] == [(4, "an earlier row has the same key")]


def test_a_scan_is_read_account_by_account(written: Callable[..., Path]) -> None:
    """With the task's own limits: too many records, none, or a record without its id is a reject."""
    record = {"record_id": "r1", "text": "login from a new place"}
    rows = [
        {"account_id": "a", "records": [record]},
        {"account_id": "b", "records": []},
        {"account_id": "c", "records": [record] * 201},
        {"account_id": "d", "records": [{"text": "x"}]},
        {"account_id": "e", "records": [record], "more": 1},
    ]
    found = list(read_scans(written("\n".join(map(json.dumps, rows)))))
    assert [isinstance(row, BadRow) for row in found] == [False, True, True, True, True]


# -- what needs no model ---------------------------------------------------------------------------------------------


def lines(*ids: str) -> list[PolicyLine]:
    return [load_catalogue().current(line_id) for line_id in ids]


def facts(**given: Any) -> CredentialFacts:
    return CredentialFacts(**{"key_id": "k", "kind": "access_key", "observed_at": NOW} | given)


def aged(days: int, seconds: int = 0) -> CredentialFacts:
    return facts(last_rotated_at=NOW - timedelta(days=days, seconds=seconds))


@pytest.mark.parametrize(
    ("evidence", "idle", "why"),
    [
        (aged(10), None, "inside_every_window"),
        (aged(90), None, "inside_every_window"),  # the line speaks of keys past their 90th whole day
        (aged(90, 86_399), None, "inside_every_window"),
        (aged(91), None, None),
        (aged(400), "inactive", "inactive"),
        (aged(400), "system_managed", "system_managed"),
        (facts(), None, None),  # an unknown age is asked about
        (facts(compromised=True), "inactive", None),  # an exposed key overrides all else
        (aged(1).model_copy(update={"compromised": True}), None, None),
        (facts(kind="user_password", age_days=400), None, "no_line_of_its_kind"),
    ],
)
def test_what_the_evidence_settles_needs_no_model(
    evidence: CredentialFacts, idle: Idle | None, why: str | None
) -> None:
    """Inactive, system managed, or inside every window, on both sides of each edge; nothing that is not known."""
    found = apply_rules(evidence, lines("CIS-AWS-4.0-1.14"), idle=idle)
    assert (None if found is None else found.reason) == why


def test_several_lines_settle_only_what_is_inside_all_of_them() -> None:
    """Young, but unused for long: the line on unused keys speaks of it."""
    both = lines("CIS-AWS-4.0-1.14", "CIS-AWS-4.0-1.12")
    young = NOW - timedelta(days=60)
    assert apply_rules(facts(last_rotated_at=young, last_used_at=NOW), both, idle=None) == RuleFinding(
        "nothing_due", "inside_every_window"
    )
    assert apply_rules(facts(last_rotated_at=young, never_used=True), both, idle=None) is None
    assert apply_rules(facts(last_rotated_at=young), both, idle=None) is None  # its use is not known
    stale = lines("P-7")
    assert apply_rules(facts(kind="service_account_key", age_days=5), stale, idle=None) is None
    assert apply_rules(facts(kind="service_account_key", stale=False), stale, idle=None) == RuleFinding(
        "nothing_due", "inside_every_window"
    )


def test_evidence_that_is_too_old_is_never_taken_for_a_clean_key(tmp_path: Path) -> None:
    """An export of last quarter: nothing is asked, nothing is nothing due, and each key says why."""
    file = tmp_path / "keys.jsonl"
    file.write_text('{"account_id": "a", "key_id": "k", "kind": "access_key", "age_days": 5}\n' * 1)
    rows = list(read(Inventory(file=file, observed_at=NOW - timedelta(days=31))))
    [item] = items_of(iter(rows), lines("CIS-AWS-4.0-1.14"), always_ask=False, reject=lambda _: None, at=NOW)
    assert (item["outcome"], item["reason"], item["ask"]) == ("not_specified", "evidence_too_old", None)
    [fresh] = items_of(
        iter(rows), lines("CIS-AWS-4.0-1.14"), always_ask=False, reject=lambda _: None, at=NOW - timedelta(days=10)
    )
    assert (fresh["outcome"], fresh["reason"]) == ("nothing_due", "inside_every_window")


def test_evidence_of_the_future_is_rejected_in_every_format(tmp_path: Path) -> None:
    """A clock that is off, or a date that was typed wrong."""
    file = tmp_path / "keys.jsonl"
    file.write_text('{"account_id": "a", "key_id": "k", "kind": "access_key", "age_days": 5}\n')
    rejected: list[BadRow] = []
    rows = read(Inventory(file=file, observed_at=NOW + timedelta(hours=1)))
    [item] = items_of(rows, lines("CIS-AWS-4.0-1.14"), always_ask=False, reject=rejected.append, at=NOW)
    assert item["outcome"] == "bad_row"
    assert "observed in the future" in rejected[0].reason


def test_by_rule_what_is_not_known_is_settled_and_says_so() -> None:
    """It is asked about only where a model is."""
    unknown = facts(kind="access_key", age_days=None)
    line = lines("CIS-AWS-4.0-1.14")
    assert apply_rules(unknown, line, idle=None) is None
    assert apply_rules(unknown, line, idle=None, by_rule=True) == RuleFinding("not_specified", "fact_not_known")
    assert apply_rules(facts(kind="access_key", age_days=900), line, idle=None, by_rule=True) is None


@pytest.mark.parametrize(
    "cell", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "'=1", "''+1", "\uff1d1", "\t=1", "'quoted'", "plain"]
)
def test_a_reject_shows_in_a_spreadsheet_what_it_would_calculate_and_is_read_back_as_it_was(
    written: Callable[..., Path], tmp_path: Path, cell: str
) -> None:
    """Opened in a spreadsheet, rejects run nothing; read again, they have the same cells."""
    rejects = Rejects(tmp_path / "rejects.csv")
    rejects.add(BadRow(2, "stale: maybe", {"account_id": "a", "key_id": "k1", "stale": "maybe", "notes": cell}))
    rejects.close()
    with (tmp_path / "rejects.csv").open(newline="") as opened:
        _, row = csv.reader(opened)
    assert not row[3].startswith(("=", "+", "-", "@", "\t", "\uff1d"))
    (again,) = read(Inventory(tmp_path / "rejects.csv", observed_at=NOW))
    assert isinstance(again, BadRow)
    assert again.raw["notes"] == cell


@pytest.mark.parametrize(
    ("idle", "expected"),
    [
        ("inactive", RuleFinding("not_specified", "evidence_too_old")),  # it may have been activated since
        ("expired", RuleFinding("nothing_due", "expired")),
        ("system_managed", RuleFinding("nothing_due", "system_managed")),
    ],
)
def test_a_key_that_was_inactive_a_year_ago_is_not_taken_for_an_inactive_one(idle: Any, expected: RuleFinding) -> None:
    seen = NOW - timedelta(days=400)
    old = facts(kind="access_key", age_days=None, stale=None, last_rotated_at=seen, observed_at=seen)
    assert apply_rules(old, lines("CIS-AWS-4.0-1.14"), idle=idle, at=NOW) == expected


def test_an_old_inventory_without_a_word_of_exposure_is_no_clean_one() -> None:
    """That it reports none counts as long as it is not too old."""
    exposed = lines("P-EXPOSED")
    for days, expected in ((5, ("nothing_due", "inside_every_window")), (400, ("not_specified", "evidence_too_old"))):
        seen = NOW - timedelta(days=days)
        found = apply_rules(facts(stale=None, observed_at=seen), exposed, idle=None, at=NOW)
        assert found == RuleFinding(*expected)  # type: ignore[arg-type]
