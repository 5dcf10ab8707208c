"""Inventories as exporters, shells and spreadsheets write them; and files that are built to crash their reader."""

import base64
import contextlib
import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.read import read, recognise_source
from keyturn.inventory.rejects import Rejects
from keyturn.inventory.rows import BadRow, InventoryKey
from keyturn.inventory.source import Inventory
from keyturn.inventory.sources import load_sources
from tests.support.cases import NOW

FIELD = Path(__file__).parents[1] / "corpora" / "estates"
APPLICATION = "11111111-1111-1111-1111-111111111111"


def rows_of(file: Path, **given: Any) -> tuple[list[InventoryKey], list[BadRow]]:
    rows = list(read(Inventory(file, observed_at=NOW, **given)))
    return [row for row in rows if isinstance(row, InventoryKey)], [row for row in rows if isinstance(row, BadRow)]


@pytest.mark.parametrize(
    ("name", "form", "count"),
    [
        ("report-300.json", "aws", 300),
        ("report-utf16.csv", "aws", 2),
        ("report.csv", "aws", 2),
        ("paths.csv", "aws", 6),
        ("gcloud-bom.json", "gcloud", 3),
        ("keys-compact.json", "gcloud", 3),
        ("arrays.json", "gcloud", 3),
        ("blank-first.json", "gcloud", 3),
        ("gcloud-expired.json", "gcloud", 2),
        ("azure-old.json", "azure", 1),
        ("graph-credentials.json", "azure", 3),
        ("nested-secret.json", "azure", 1),
        ("semicolon.csv", "csv", 1),
        ("pandas.csv", "csv", 2),
    ],
)
def test_what_exporters_write_is_recognised_and_every_key_is_read(name: str, form: str, count: int) -> None:
    keys, bad = rows_of(FIELD / name, account_id=APPLICATION)
    assert (recognise_source(FIELD / name), len(keys), bad) == (form, count, [])


def test_what_they_say_is_what_is_read() -> None:
    paths, _ = rows_of(FIELD / "paths.csv")
    assert paths[0].account_id == "arn:aws:iam::123456789012:user/dept(eu)/svc-a"
    assert max(len(key.account_id) for key in paths) > 256
    pandas, _ = rows_of(FIELD / "pandas.csv")
    assert [(key.facts.age_days, key.facts.stale) for key in pandas] == [(45, True), (None, False)]
    (old,), _ = rows_of(FIELD / "azure-old.json", account_id=APPLICATION)
    assert old.facts.last_rotated_at is not None
    expired, googles = rows_of(FIELD / "gcloud-expired.json")[0]
    assert (expired.idle, googles.idle, googles.facts.last_rotated_at) == ("expired", "system_managed", None)


def test_ids_of_keys_join_in_every_form_of_their_list(tmp_path: Path) -> None:
    """With a mark, as a bare array, and beside root's own entry, which has no user's name."""
    report = FIELD / "report.csv"
    joined, bad = rows_of(report, access_keys=FIELD / "keys.json")
    assert [key.facts.key_id for key in joined] == ["AKIAEXAMPLE0ROOT0001", "AKIAEXAMPLE000000001"]
    assert bad == []
    for name in ("keys-bom.json", "keys-bare.json"):
        alone = tmp_path / "one.csv"
        alone.write_text("\n".join(line for line in report.read_text().splitlines() if "root_account" not in line))
        (key,), _ = rows_of(alone, access_keys=FIELD / name)
        assert key.facts.key_id == "AKIAEXAMPLE000000001"


@pytest.mark.parametrize("name", ["keys.json", "keys-bare.json", "keys-bom.json"])
def test_a_list_of_access_keys_is_no_inventory_and_says_where_it_belongs(name: str) -> None:
    keys, bad = rows_of(FIELD / name)
    assert keys == []
    assert all("--access-keys" in row.reason for row in bad)


ASSET = {
    "name": "//iam.googleapis.com/projects/p/serviceAccounts/1234567890/keys/abc",
    "assetType": "iam.googleapis.com/ServiceAccountKey",
}
SHOWN = "projects/p/serviceAccounts/sa@p.iam.gserviceaccount.com/keys/abc"
MORE: dict[str, tuple[str | bytes, str, list[tuple[str, str]]]] = {
    "gcloud asset search-all-resources": (
        json.dumps([ASSET | {"displayName": SHOWN, "createTime": "2025-01-01T00:00:00Z"}]),
        "gcloud",
        [("sa@p.iam.gserviceaccount.com", "abc")],
    ),
    "a Cloud Asset export": (
        json.dumps(ASSET | {"resource": {"data": {"name": SHOWN, "validAfterTime": "2025-01-01T00:00:00Z"}}}) + "\n",
        "jsonl",
        [("sa@p.iam.gserviceaccount.com", "abc")],
    ),
    "az ad app list": (
        json.dumps([{"appId": "a-1", "passwordCredentials": [{"keyId": "p"}], "keyCredentials": [{"keyId": "c"}]}]),
        "azure",
        [("a-1", "p"), ("a-1", "c")],
    ),
    "Graph's applications": (
        json.dumps({"@odata.context": "x", "value": [{"appId": "a-1", "passwordCredentials": [{"keyId": "p"}]}]}),
        "azure",
        [("a-1", "p")],
    ),
    "objects behind each other": (
        "\n".join(json.dumps({"account_id": "a", "key_id": key}, indent=2) for key in ("k1", "k2")),
        "jsonl",
        [("a", "k1"), ("a", "k2")],
    ),
    "an array on one line": ('[{"account_id":"a","key_id":"k1"}]', "jsonl", [("a", "k1")]),
    "tabs": ("account_id\tkey_id\na\tk1\n", "csv", [("a", "k1")]),
    "carriage returns": ("account_id,key_id\ra,k1\r", "csv", [("a", "k1")]),
    "Excel's first line": ("sep=;\r\naccount_id;key_id;age_days\r\na;k1;45,0\r\n", "csv", [("a", "k1")]),
    "blank lines first": ("\n\naccount_id,key_id\na,k1\n", "csv", [("a", "k1")]),
    "UTF-16 of a big endian": ("account_id,key_id\na,k1\n".encode("utf-16-be"), "csv", [("a", "k1")]),
    "UTF-16 with a mark": ("account_id,key_id\na,k1\n".encode("utf-16"), "csv", [("a", "k1")]),
    "a listing on one long line": (
        json.dumps({"value": [{"appId": "a", "keyId": f"k{number}"} for number in range(4_000)]}),
        "azure",
        [("a", f"k{number}") for number in range(4_000)],
    ),
    "applications without credentials of one kind": (
        json.dumps([{"appId": "a-1", "passwordCredentials": None, "keyCredentials": [{"keyId": "c"}]}]),
        "azure",
        [("a-1", "c")],
    ),
    "files behind each other, each with its mark": (
        '\ufeff{"account_id":"a","key_id":"k1"}\n\ufeff{"account_id":"a","key_id":"k2"}\n',
        "jsonl",
        [("a", "k1"), ("a", "k2")],
    ),
    "pandas' gaps": ('{"account_id":"a","key_id":"k1","age_days":NaN,"stale":null}\n', "jsonl", [("a", "k1")]),
}


@pytest.mark.parametrize("name", MORE)
def test_more_of_the_same_kinds(name: str, tmp_path: Path) -> None:
    content, form, expected = MORE[name]
    file = tmp_path / "inventory"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    keys, bad = rows_of(file)
    assert (recognise_source(file), [(key.account_id, key.facts.key_id) for key in keys], bad) == (form, expected, [])


@pytest.mark.parametrize("name", ["@odata.nextLink", "next_page_token", "skipToken"])
def test_a_page_of_several_is_reported(name: str, tmp_path: Path) -> None:
    """Who reads one page judges a part of the estate, and thinks that it was all."""
    file = tmp_path / "page.json"
    file.write_text(json.dumps({"value": [{"keyId": "k", "appId": "a"}], name: "https://graph.example/next"}))
    keys, (bad,) = rows_of(file)
    assert len(keys) == 1
    assert "one page of several" in bad.reason


@pytest.mark.parametrize(
    ("text", "keys", "bad"),
    [
        ('account_id,key_id,notes\na,k1,"its 6 inch\na,k2,x\na,"k3",y\na,k4,z\n', ["k2", "k3", "k4"], [2]),
        # Closed by the next one, with as many cells as the header: that was one key, and no word of the others.
        ('account_id,key_id,notes\na,k1,"x\na,k2,x\na,k3,x"\na,k4,z\n', ["k4"], [2]),
        ('account_id,key_id,notes\na,k1,"x\n' + "".join(f"a,k{n},x\n" for n in range(2, 9_000)), None, [2]),
        # Else who writes a note could write keys into it.
        ('account_id,key_id,notes\na,k1,"one\nevil,k9,\ntwo"\na,k2,x\n', ["k2"], [2]),
    ],
)
def test_a_quotation_mark_that_was_not_meant_takes_no_other_line_with_it(
    tmp_path: Path, text: str, keys: list[str] | None, bad: list[int]
) -> None:
    file = tmp_path / "stray.csv"
    file.write_text(text)
    found, rejects = rows_of(file)
    assert [reject.line for reject in rejects] == bad
    assert all("spans lines 2 to 4" in one.reason or "quotation mark" in one.reason for one in rejects)
    assert [key.facts.key_id for key in found] == (keys or [f"k{n}" for n in range(2, 9_000)])


def test_half_a_surrogate_pair_in_a_cell_loses_no_reject(tmp_path: Path) -> None:
    for name in ("rejects.csv", "rejects.jsonl"):
        rejects = Rejects(tmp_path / name)
        rejects.add(BadRow(1, "is none", {"keyId": "k", "notes": "half \ud83d of it"}))
        rejects.add(BadRow(2, "is none", {"keyId": "k2"}))
        rejects.close()
        assert "k2" in (tmp_path / name).read_text()


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"value": []}', "account_id,key_id\n", '{"keys":[]}\n', " \n", "[][]"]
)
def test_a_file_without_a_key_and_without_a_reject_is_an_error(content: str, tmp_path: Path) -> None:
    """It is nearly always an export that failed: a nightly run of it must not end happily."""
    file = tmp_path / "empty"
    file.write_text(content)
    for form in (None, *load_sources()):
        try:
            keys, bad = rows_of(file, format=form)
        except InventoryInvalid:
            continue
        assert (keys, bool(bad)) == ([], True)  # `{}` is an object, and no key


def test_what_is_none_of_the_formats_is_refused_with_what_was_looked_for_and_found(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("key;owner\n1;luna\n")
    with pytest.raises(InventoryInvalid, match=r"no header .*with account_id and key_id") as refused:
        rows_of(file)
    assert "It starts with 'key', 'owner'" in str(refused.value)
    assert "owner" not in refused.value.without_quotes


@pytest.mark.parametrize(
    "name",
    ["secretText", "password", "clientSecret", "privateKeyData", "api_key", "value_of_token", "pwd", "session_cookie"],
)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_no_reject_holds_a_secret_under_any_name_at_any_depth(name: str, depth: int, tmp_path: Path) -> None:
    secret: Any = {name: "made-up-secret-1234"}
    for _ in range(depth):
        secret = {"passwordCredential": secret, "list": [secret]}
    rejects = Rejects(tmp_path / "rejects.jsonl")
    rejects.add(BadRow(1, "is none", {"keyId": "k", **secret, "notes": "password=made-up-secret-1234"}))
    rejects.close()
    rejected = (tmp_path / "rejects.jsonl").read_text()
    assert "made-up-secret" not in rejected
    assert '"keyId": "k"' in rejected


HOSTILE = {
    "an integer of 4,301 digits": '[{"keyId": ' + "1" * 4_301 + "}]",
    "100,000 brackets": "[" * 100_000,
    "40,000 objects": '{"a":' * 40_000,
    "brackets in turn": '[{"a":' * 20_000,
    "a huge exponent": '[{"account_id": "a", "key_id": "b", "age_days": 1e99999}]',
    "a form feed": "[\f]",
    "a control character in a text": '["a\x01"]',
    "a text of three million letters": '["' + "x" * 3_000_000 + '"]',
    "quotes that are escaped over the edge of a piece": '["' + '\\"' * 40_001 + '[[[["]',
    "an end too many": '["x"]]',
    "cut off": '[{"keyId": "a"',
    "half a surrogate pair": '["\\ud800"]',
    "a number alone": "1",
    "a name alone": "null",
    "NaN": "[NaN]",
    "a comma at the end": "[1,]",
    "single quotes": "['a']",
    "an object without a colon": '{"a"}',
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", [None, "gcloud", "azure", "jsonl", "csv", "aws"])
def test_what_is_made_to_kill_a_parser_is_read_or_refused_by_name(name: str, form: Any, tmp_path: Path) -> None:
    """In under a second, and without much memory."""
    file = tmp_path / "hostile"
    file.write_text(HOSTILE[name])
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        keys, _ = rows_of(file, format=form)
        assert keys == []
    except InventoryInvalid:
        pass
    assert time.monotonic() - begun < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_large_report_is_recognised_at_once_and_its_members_may_come_in_any_order(tmp_path: Path) -> None:
    """Its moment may stand behind a hundred megabytes, and its content may be escaped as some writers escape."""
    header, row = (FIELD / "report.csv").read_text().split("\n")[:2]
    content = base64.b64encode((f"{header}\n" + f"{row}\n" * 40_000).encode()).decode()
    members = {"Content": content, "ReportFormat": "text/csv", "GeneratedTime": "2026-11-21T06:30:00+00:00"}
    for order in (["Content", "ReportFormat", "GeneratedTime"], ["GeneratedTime", "Content"]):
        file = tmp_path / "report.json"
        file.write_text(json.dumps({name: members[name] for name in order}, indent=4).replace("/", "\\/"))
        begun = time.monotonic()
        assert recognise_source(file) == "aws"
        assert time.monotonic() - begun < 0.2
        rows = read(Inventory(file))
        first = next(rows)
        assert isinstance(first, InventoryKey)
        assert first.facts.observed_at.isoformat() == "2026-11-21T06:30:00+00:00"
        assert 1 + sum(1 for _ in rows) == 40_000


@given(st.binary(max_size=300), st.sampled_from([None, *load_sources()]))
def test_any_bytes_end_in_keys_rejects_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, form: Any
) -> None:
    file = tmp_path_factory.getbasetemp() / "any_bytes_at_all"
    file.write_bytes(content)
    with contextlib.suppress(InventoryInvalid):
        keys, bad = rows_of(file, format=form)
        assert keys or bad
