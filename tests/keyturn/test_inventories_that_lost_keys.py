"""Exports of which keys were lost, or read as younger than they are: each key is counted now, or named as refused."""

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.places import expect_file
from keyturn.inventory.read import read, recognise_source
from keyturn.inventory.rejects import Rejects
from keyturn.inventory.rows import InventoryKey
from keyturn.inventory.source import Inventory
from tests.keyturn.test_inventories_of_the_field import rows_of

HEADER = "user,arn,access_key_1_active,access_key_1_last_rotated,access_key_2_active,access_key_2_last_rotated"
MADE, OF = "2026-01-01T00:00:00+00:00", "arn:aws:iam::111111111111:user"


def report(*users: str, more: str = "") -> str:
    return "\n".join([HEADER, *(f"{user},{OF}/{user},true,{MADE},false,N/A{more}" for user in users)])


def answer(text: str, made: str | None = "2026-11-20T09:00:00+00:00") -> str:
    content = {"Content": base64.b64encode(text.encode()).decode(), "ReportFormat": "text/csv"}
    return json.dumps(content | ({} if made is None else {"GeneratedTime": made}), indent=4)


def listed(*keys: tuple[str, str, str], **page: Any) -> str:
    entries = [
        {"UserName": user, "AccessKeyId": key_id, "Status": "Active", "CreateDate": made} for user, key_id, made in keys
    ]
    return json.dumps({"AccessKeyMetadata": entries} | page)


@pytest.mark.parametrize(
    ("written", "days"),
    [
        ("30", 30),
        ("45.0", 45),
        ("45,00", 45),
        ("45.000000", 45),
        ("1,000", None),
        ("1.000", None),
        ("10.000", None),
        ("1\u00a0000", None),
        ("1'000", None),
    ],
)
def test_a_mark_between_thousands_is_no_decimal_point(tmp_path: Path, written: str, days: int | None) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(f"account_id;key_id;age_days\na;k1;{written}\n")
    keys, bad = rows_of(file)
    assert [key.facts.age_days for key in keys] == ([] if days is None else [days])
    assert all("without marks between thousands" in one.reason for one in bad)
    assert len(keys) + len(bad) == 1


@pytest.mark.parametrize("size", [2, 3_000])
def test_every_answer_of_a_file_is_read_with_its_own_time(tmp_path: Path, size: int) -> None:
    """As a loop over accounts writes them one behind the other."""
    file = tmp_path / "all.json"
    users = [f"user-{number}" for number in range(size)]
    second = answer(report("deploy", "backup"), "2026-11-21T09:00:00+00:00")
    file.write_text(f"{answer(report(*users))}\n{second}{answer(report('last'), None)}\n")
    assert recognise_source(file) == "aws"
    keys = [row for row in read(Inventory(file)) if isinstance(row, InventoryKey)]
    seen = {key.account_id.rpartition("/")[2]: key.facts.observed_at for key in keys}
    assert list(seen) == [*users, "deploy", "backup", "last"]
    assert seen["user-0"] == datetime(2026, 11, 20, 9, tzinfo=UTC)
    assert seen["backup"] == datetime(2026, 11, 21, 9, tzinfo=UTC)
    assert seen["last"] == datetime.fromtimestamp(file.stat().st_mtime, UTC)


@pytest.mark.parametrize("shift", range(-2, 3))
def test_a_report_may_end_where_a_piece_of_the_file_does(tmp_path: Path, shift: int) -> None:
    """The file is read in pieces of 65,536 characters, and the second report was lost."""
    file, first = tmp_path / "all.json", '{"Content": "'
    room = 65_536 + shift - len(first)
    content = base64.b64encode(report("a").encode()).decode()
    padding = " " * (room - len(content))  # white space within Base64, as line breaks are
    file.write_text(f'{first}{content}{padding}", "ReportFormat": "text/csv"}}\n{answer(report("b"))}')
    keys, bad = rows_of(file)
    assert ([key.account_id.rpartition("/")[2] for key in keys], bad) == (["a", "b"], [])


@pytest.mark.parametrize(
    "rest",
    [
        '{"Content": ""}',
        answer(report("b")).replace("}", ', "ResponseMetadata": ' + answer(report("c")) + "}"),
        "\nAn error occurred (ReportNotPresent) when calling the GetCredentialReport operation\n",
        '{"Error": {"Code": "ReportNotPresent"}}',
        "x" * 2_000_000,
        answer(report("b"))[:-40],
        '{"Content": "no Base64 at all!"}',
    ],
)
def test_what_follows_an_answer_and_is_none_is_refused(tmp_path: Path, rest: str) -> None:
    file = tmp_path / "all.json"
    file.write_text(answer(report("a")) + rest)
    with pytest.raises(InventoryInvalid):
        rows_of(file)


def test_a_key_that_a_report_leaves_out_is_named(tmp_path: Path) -> None:
    """By the report itself, and by a list that is newer."""
    file, keys_file = tmp_path / "report.csv", tmp_path / "keys.json"
    text = report("ci", more=",2 additional access keys. Use the ListAccessKeys action").replace(
        HEADER, HEADER + ",additional_credentials_info"
    )
    file.write_text(text)
    keys, (bad,) = rows_of(file)
    assert len(keys) == 1
    assert "leaves out further access keys" in bad.reason
    file.write_text(report("ci"))
    keys_file.write_text(
        listed(("ci", "AKIA1", MADE), ("ci", "AKIA2", "2022-01-01T00:00:00Z"), ("new", "AKIA3", "2026-06-01T00:00:00Z"))
    )
    keys, rejects = rows_of(file, access_keys=keys_file)
    assert [key.facts.key_id for key in keys] == ["AKIA1"]
    assert [(one.raw["UserName"], one.raw["AccessKeyId"]) for one in rejects] == [("ci", "AKIA2"), ("new", "AKIA3")]
    assert all("in no report" in one.reason for one in rejects)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (listed(("ci", "AKIA1", MADE), IsTruncated=True, Marker="AAEC"), "one page of several"),
        (listed(("ci", "AKIA1", MADE), NextToken="AAEC"), "one page of several"),
        (listed(("ci", "AKIA1", MADE), IsTruncated=True), "one page of several"),
        (f"[{listed(('ci', 'AKIA1', MADE))}, {listed(('b', 'AKIA2', MADE), IsTruncated=True)}]", "one page of several"),
        ('{"Users": []}', "is not the output of"),
    ],
)
def test_a_list_of_access_keys_that_is_not_whole_is_refused_for_what_it_is(
    tmp_path: Path, text: str, said: str
) -> None:
    file, keys_file = tmp_path / "report.csv", tmp_path / "keys.json"
    file.write_text(report("ci"))
    keys_file.write_text(text)
    with pytest.raises(InventoryInvalid, match=said):
        rows_of(file, access_keys=keys_file)


def test_an_array_of_lists_is_read(tmp_path: Path) -> None:
    """As `jq -s` writes it."""
    file, keys_file = tmp_path / "report.csv", tmp_path / "keys.json"
    file.write_text(report("ci", "b"))
    keys_file.write_text(f"[{listed(('ci', 'AKIA1', MADE))}, {listed(('b', 'AKIA2', MADE))}]")
    keys, bad = rows_of(file, access_keys=keys_file)
    assert ([key.facts.key_id for key in keys], bad) == (["AKIA1", "AKIA2"], [])


def test_a_credential_of_azures_that_is_no_list_is_read_or_named(tmp_path: Path) -> None:
    """PowerShell writes a list of one as the one; cut too early, as a text."""
    file = tmp_path / "apps.json"
    one, other = ({"keyId": f"p{n}", "startDateTime": "2025-01-01T00:00:00Z"} for n in (1, 2))
    file.write_text(
        json.dumps(
            {
                "value": [
                    {"appId": "a1", "passwordCredentials": one, "keyCredentials": []},
                    {"appId": "a2", "passwordCredentials": [other], "keyCredentials": None},
                    {"appId": "a3", "passwordCredentials": "@{keyId=p3; startDateTime=}", "keyCredentials": [one]},
                ]
            }
        )
    )
    keys, (bad,) = rows_of(file)
    assert [(key.account_id, key.facts.key_id) for key in keys] == [("a1", "p1"), ("a2", "p2"), ("a3", "p1")]
    assert bad.reason == "passwordCredentials: is no list of credentials"


NAME = "projects/p-1/serviceAccounts/a@p-1.iam.gserviceaccount.com/keys/"


def of_google(key_id: str, **more: Any) -> dict[str, Any]:
    return {"name": NAME + key_id, "keyType": "USER_MANAGED", "validAfterTime": "2026-05-30T00:00:00Z"} | more


def snake(fields: dict[str, Any]) -> dict[str, Any]:
    names = {"keyType": "key_type", "validAfterTime": "valid_after_time", "validBeforeTime": "valid_before_time"}
    return {names.get(name, name): value for name, value in fields.items()}


def asset(fields: dict[str, Any], form: str) -> dict[str, Any]:
    """A key as each of Google's exporters writes it."""
    row = {"name": f"//iam.googleapis.com/{fields['name']}", "assetType": "iam.googleapis.com/ServiceAccountKey"}
    return {
        "list": fields,
        "python client, CloudQuery": snake(fields),
        "enumeration": snake(fields) | {"key_type": {"USER_MANAGED": 1, "SYSTEM_MANAGED": 2}[fields["keyType"]]},
        "export": row | {"resource": {"data": fields}},
        "BigQuery": {"name": row["name"], "asset_type": row["assetType"], "resource": {"data": json.dumps(fields)}},
        "search": row | {"versionedResources": [{"version": "v1", "resource": fields}]},
    }[form]


@pytest.mark.parametrize("form", ["list", "python client, CloudQuery", "enumeration", "export", "BigQuery", "search"])
def test_a_key_of_googles_is_what_it_is_whoever_wrote_it(tmp_path: Path, form: str) -> None:
    file = tmp_path / "keys.jsonl"
    keys = [
        of_google("0a1"),
        of_google("0a2", disabled=True),
        of_google("0a3", keyType="SYSTEM_MANAGED"),
        of_google("0a4", validBeforeTime="2026-06-01T00:00:00Z"),
    ]
    file.write_text("\n".join(json.dumps(asset(key, form)) for key in keys))
    found, bad = rows_of(file)
    assert bad == []
    assert [key.idle for key in found] == [None, "inactive", "system_managed", "expired"]
    assert {key.account_id for key in found} == {"a@p-1.iam.gserviceaccount.com"}
    assert found[0].facts.last_rotated_at == datetime(2026, 5, 30, tzinfo=UTC)


def test_a_type_that_is_none_loses_no_other_row(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([of_google("0a1", keyType=["x"]), of_google("0a2")]))
    assert len(rows_of(file)[0]) == 2


def test_a_resource_that_is_a_text_and_no_object_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([{"name": f"//iam.googleapis.com/{NAME}0a1", "resource": {"data": "none"}}]))
    assert [one.reason for one in rows_of(file)[1]] == ["resource.data: is no object"]


TWICE = '{"account_id":"a","key_id":"k","compromised":true,"age_days":900,"compromised":false,"age_days":1}'


@pytest.mark.parametrize(
    "text",
    [
        f"{TWICE}\n",
        f"[{TWICE}]",
        f'{{"value": [{TWICE}]}}',
        '[{"account_id": "a", "key_id": "k", "notes": {"x": 1, "x": 2}}]',
        TWICE.replace(",", ",\n"),
    ],
)
def test_an_object_that_says_two_things_says_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    keys, (bad,) = rows_of(file)
    assert (keys, bad.reason) == ([], "names a member twice: what says two things says nothing")


@pytest.mark.parametrize("name", ["keys", "results", "value"])
def test_a_key_with_a_member_of_a_listing_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(
        json.dumps({"account_id": "a", "key_id": "k0", "age_days": 900, name: []}, indent=1)
        + '\n{"account_id":"a","key_id":"k1"}'
    )
    keys, (bad,) = rows_of(file)
    assert [key.facts.key_id for key in keys] == ["k1"]
    assert bad.reason.startswith("is a key, and lists others")


@pytest.mark.parametrize(
    "entry",
    [
        {"apiVersion": "v1", "kind": "Secret", "data": {"tls.key": "c2VjcmV0LW9mLWE=", "DATABASE_URL": "cG9z"}},
        {
            "api_keys": [{"key": "1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d", "created": "2026-01-01"}]
        },  # pragma: allowlist secret
    ],
)
def test_of_an_entry_of_no_known_format_no_value_is_written(tmp_path: Path, entry: dict[str, Any]) -> None:
    """It may be anything; and the file is for its owner alone."""
    file = tmp_path / "entries.json"
    file.write_text(json.dumps([entry, {"account_id": "a", "key_id": "k"}]))
    _, bad = rows_of(file)
    rejects = Rejects(tmp_path / "rejects.jsonl")
    for one in bad:
        rejects.add(one)
    rejects.close()
    (written,) = map(json.loads, rejects.file.read_text().splitlines())
    assert set(written) == {"keyturn_line", "keyturn_reason"}
    assert rejects.file.stat().st_mode & 0o077 == 0


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Each look would open it anew: of 5,000 rows, 66 were lost."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InventoryInvalid, match="save it to one"):
        expect_file(pipe)
    expect_file(tmp_path / "absent")  # is said by who opens it


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"account_id": 123456789012, "key_id": "k"}, "account_id: is no text: write it in quotation marks"),
        ({"account_id": "a", "key_id": 42}, "key_id: is no text: write it in quotation marks"),
        ({"account_id": "a"}, "key_id: is missing"),
        ({"key_id": "k"}, "account_id: is missing"),
        ({"account_id": "a", "key_id": "k", "last_used_at": "Never"}, "leave it empty and set never_used"),
        ({"account_id": "a", "key_id": "k", "last_used_at": "-"}, "leave it empty and set never_used"),
        ({"account_id": "a", "key_id": "k", "last_used_at": "27.11.2026"}, "write it as 2026-08-01T00:00:00Z"),
        ({"account_id": "1.23457E+11", "key_id": "k"}, "account_id: was read as a number, and may be rounded"),
        ({"account_id": "a", "key_id": "1,2E+5"}, "key_id: was read as a number, and may be rounded"),
    ],
)
def test_a_row_is_refused_for_what_is_wrong_with_it(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text(json.dumps(row) + "\n")
    keys, (bad,) = rows_of(file)
    assert keys == []
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("2025-11-27 09:00:00+01", "2025-11-27T08:00:00+00:00"),  # PostgreSQL
        ("2025-11-27 09:00:00.123456+00", "2025-11-27T09:00:00.123456+00:00"),
        ("2025-11-27 09:00:00 UTC", "2025-11-27T09:00:00+00:00"),  # BigQuery
        ("2025-11-27 09:00:00.000 -0800", "2025-11-27T17:00:00+00:00"),  # Snowflake
        ("2025-11-27T09:00:00Z", "2025-11-27T09:00:00+00:00"),
        ("2025-11-27T09:00:00.123456789+05:30", "2025-11-27T03:30:00.123456+00:00"),
    ],
)
def test_a_moment_is_read_as_databases_write_it(tmp_path: Path, written: str, read_as: str) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(f"account_id,key_id,last_used_at\na,k,{written}\n")
    (key,), bad = rows_of(file)
    assert (key.facts.last_used_at, bad) == (datetime.fromisoformat(read_as), [])


@pytest.mark.parametrize("text", ["account_id,key_id,source\na,k1,x\naccount_id,key_id,source\nb,k2,x\n", None])
def test_the_header_of_a_file_that_was_joined_is_no_key(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "both.csv"
    file.write_text(text or f"{report('a')}\n{report('b')}\n")
    keys, bad = rows_of(file)
    assert (len(keys), bad) == (2, [])


@pytest.mark.parametrize(
    "second",
    ["key_id,account_id,age_days\nk2,b,1\n", "account_id,key_id,owner\nb,k2,pay\n", "key_id,account_id,source\n"],
)
def test_the_header_of_a_joined_file_with_other_columns_is_refused(tmp_path: Path, second: str) -> None:
    """Its rows would be read by the first one's columns: an account for a key."""
    file = tmp_path / "both.csv"
    file.write_text(f"account_id,key_id,age_days\na,k1,1\n{second}")
    with pytest.raises(InventoryInvalid, match="line 3 is a header of other columns"):
        rows_of(file)


def test_an_account_that_is_called_as_a_column_is_one(tmp_path: Path) -> None:
    file = tmp_path / "keys.csv"
    file.write_text("account_id,key_id,age_days\nowner,k1,1\nkey_id,k2,1\n")
    keys, bad = rows_of(file)
    assert ([key.account_id for key in keys], bad) == (["owner", "key_id"], [])


@pytest.mark.parametrize("text", ["[{}]", '{{"value": [{}]}}', "{}"])
def test_an_entry_of_a_million_members_is_none_wherever_it_stands(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    for large in ({f"c{number}": 0 for number in range(100_000)}, {"x": [1.5] * 100_000}):
        entry = json.dumps(large)
        file.write_text(text.format(entry) if text != "{}" else entry)
        with pytest.raises(InventoryInvalid, match="more than 50,000 members"):
            rows_of(file, format="gcloud")


@pytest.mark.parametrize(
    "second",
    [
        "owner,account_id,key_id",
        "Source,Account_ID,Key_ID",
        "\ufeffkey_id,account_id,source",
        "\ufeffaccount_id,key_id,owner",
        "kind,account_id,key_id",
    ],
)
def test_a_joined_header_of_other_columns_is_refused_wherever_its_names_stand(tmp_path: Path, second: str) -> None:
    """As `cat team1.csv team2.csv` writes it, each file with its own mark: its rows would be read by the first one."""
    file = tmp_path / "keys.csv"
    file.write_text(f"account_id,key_id,source\na,k1,x\n{second}\npay,b,k2\n", encoding="utf-8")
    with pytest.raises(InventoryInvalid, match="line 3 is a header of other columns"):
        rows_of(file)


@pytest.mark.parametrize("second", ["\ufeffaccount_id,key_id,source", "Account_ID,Key_ID,Source"])
def test_a_joined_header_of_the_same_columns_is_no_row(tmp_path: Path, second: str) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(f"account_id,key_id,source\na,k1,x\n{second}\nb,k2,y\n", encoding="utf-8")
    keys, bad = rows_of(file)
    assert ([(key.account_id, key.facts.key_id) for key in keys], bad) == ([("a", "k1"), ("b", "k2")], [])


def test_downloads_that_were_appended_on_one_line_lose_no_key(tmp_path: Path) -> None:
    """`curl ... >> all.json`: Graph's pages have no line break at their ends. However many there are."""
    for pages in (2, 400):
        file = tmp_path / f"{pages}.json"
        written = (json.dumps({"value": [{"appId": f"a{n}", "keyId": f"k{n}"}]}) for n in range(pages))
        file.write_text("".join(written))
        keys, bad = rows_of(file)
        assert ([key.facts.key_id for key in keys], bad) == ([f"k{n}" for n in range(pages)], [])


def test_an_entry_as_large_as_microsofts_own_is_read(tmp_path: Path) -> None:
    """Microsoft Graph's service principal is in every tenant, before others' credentials."""
    roles = [{f"m{number}": "x" for number in range(9)} for _ in range(1_200)]
    file = tmp_path / "sp.json"
    file.write_text(json.dumps([{"appId": "graph", "appRoles": roles}, {"appId": "a", "keyId": "k1"}]))
    keys, _ = rows_of(file)
    assert [key.facts.key_id for key in keys] == ["k1"]


def test_zeros_of_clocks_are_no_dates(tmp_path: Path) -> None:
    """A key that ended in the year 1 is not expired, and one that was made in 1970 is no stale one."""
    file = tmp_path / "keys.json"
    graph = {"appId": "a", "keyId": "k1", "endDateTime": "0001-01-01T00:00:00Z"}
    file.write_text(json.dumps([graph]))
    keys, bad = rows_of(file)
    assert ([key.idle for key in keys], bad) == ([None], [])
    table = tmp_path / "keys.csv"
    table.write_text("account_id,key_id,last_rotated_at\na,k1,1970-01-01T00:00:00Z\n")
    keys, bad = rows_of(table)
    assert (keys, "is the zero of computers' clocks" in bad[0].reason) == ([], True)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("account_id,key_id,last_used_at,compromised\n a ,k1,\\N,t\n", {"compromised": True, "last_used_at": None}),
        ("account_id,key_id,last_used_at,compromised\na,k1,<NA>,f\n", {"compromised": False, "last_used_at": None}),
        ("account_id,key_id,last_used_at,never_used\na,k1,<null>,t\n", {"never_used": True, "last_used_at": None}),
    ],
)
def test_gaps_and_truths_as_databases_write_them(tmp_path: Path, text: str, facts: dict[str, Any]) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(text)
    keys, bad = rows_of(file)
    assert bad == []
    assert (keys[0].account_id, {name: getattr(keys[0].facts, name) for name in facts}) == ("a", facts)
