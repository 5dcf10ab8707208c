"""Inventories that people put together: jq, PowerShell, pandas, R, and loops over accounts and applications."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.read import holds_table, read
from keyturn.inventory.rejects import Rejects
from keyturn.inventory.rows import BadRow
from keyturn.inventory.source import Inventory
from tests.keyturn.test_inventories_of_the_field import rows_of

ONE, TWO = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
CONTEXT = "https://graph.microsoft.com/v1.0/$metadata#applications"


def gcp(key: str, **more: Any) -> dict[str, Any]:
    name = f"projects/p1/serviceAccounts/a@p1.iam.gserviceaccount.com/keys/{key}"
    return {"name": name, "keyType": "USER_MANAGED", "validAfterTime": "2026-01-01T00:00:00Z"} | more


def secret(key: str) -> dict[str, Any]:
    return {"keyId": key, "startDateTime": "2026-01-01T00:00:00Z", "endDateTime": "2028-01-01T00:00:00Z"}


def application(app: str, *keys: str) -> dict[str, Any]:
    return {"appId": app, "passwordCredentials": [secret(key) for key in keys]}


def counted(*values: Any) -> dict[str, Any]:
    return {"value": list(values), "Count": len(values)}


@pytest.mark.parametrize(
    ("document", "ids"),
    [
        ([[gcp("k1"), gcp("k2")], [], [gcp("k3")]], ["k1", "k2", "k3"]),  # jq -s
        ([{"keys": [gcp("k1")]}, {"keys": [gcp("k2")]}], ["k1", "k2"]),
        ([{"email": "a@p1", "keys": [gcp("k1")]}, {"email": "b@p1", "keys": []}], ["k1"]),
        ({"results": [{"keys": [gcp("k1"), gcp("k2")]}]}, ["k1", "k2"]),
        ([counted(application(ONE, "k1")), counted(application(TWO, "k2"))], ["k1", "k2"]),
    ],
    ids=["arrays", "listings", "listings-with-names", "listings-in-a-listing", "powershell"],
)
def test_files_within_an_array_are_read_as_they_would_be_alone(tmp_path: Path, document: Any, ids: list[str]) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(document))
    keys, bad = rows_of(file)
    assert ([key.facts.key_id for key in keys], bad) == (ids, [])


def test_powershells_object_of_a_list_and_its_count_is_the_list(tmp_path: Path) -> None:
    file = tmp_path / "apps.json"
    nested = {"passwordCredentials": counted(secret("k1"), secret("k2")), "keyCredentials": counted()}
    file.write_text(json.dumps(counted({"appId": ONE} | nested)))
    keys, bad = rows_of(file)
    assert ([(key.account_id, key.facts.key_id) for key in keys], bad) == ([(ONE, "k1"), (ONE, "k2")], [])


@pytest.mark.parametrize("member", ["keys", "value"])
@pytest.mark.parametrize("name", ["appId", "clientId", "applicationId"])
def test_an_applications_listing_beside_its_id_is_its_own(tmp_path: Path, name: str, member: str) -> None:
    """Whatever `--account` says: each would be taken for that application's."""
    file = tmp_path / "apps.json"
    file.write_text(json.dumps([{name: ONE, member: [secret("k1")]}, {name: TWO, member: [secret("k2")]}]))
    keys, bad = rows_of(file, account_id="33333333-3333-3333-3333-333333333333")
    assert ([(key.account_id, key.facts.key_id) for key in keys], bad) == ([(ONE, "k1"), (TWO, "k2")], [])


def test_one_page_of_several_is_reported_beside_an_application_too(tmp_path: Path) -> None:
    file = tmp_path / "apps.json"
    file.write_text(json.dumps([{"appId": ONE, "value": [secret("k1")], "@odata.nextLink": "https://x"}]))
    keys, (bad,) = rows_of(file)
    assert [key.facts.key_id for key in keys] == ["k1"]
    assert "one page of several" in bad.reason


def test_row_numbers_that_do_not_count_up_may_be_accounts(tmp_path: Path) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(",account_id,key_id,age_days\n0,a,k1,90\n1234,k2,10,\n2,a,k3,91\n")
    keys, bad = rows_of(file)
    assert [key.facts.key_id for key in keys] == ["k1"]
    assert all("in pandas, index=False" in one.reason for one in bad)


def test_a_broken_line_costs_no_other_line(tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    rows = [json.dumps({"account_id": "a", "key_id": f"k{number}"}) for number in range(3)]
    file.write_text("\n".join([rows[0], "{", *rows[1:]]))
    keys, (bad,) = rows_of(file)
    assert ([key.facts.key_id for key in keys], bad.reason) == (["k0", "k1", "k2"], "is not JSON")


def test_an_application_that_is_named_behind_its_listing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "apps.json"
    file.write_text(json.dumps([{"keys": [secret("k1")], "appId": ONE}]))
    with pytest.raises(InventoryInvalid, match="names its application behind its keys"):
        rows_of(file, account_id=TWO)


def graph_page(app: str, key: str, *, more: bool = False) -> dict[str, Any]:
    next_page = {"@odata.nextLink": "https://graph.microsoft.com/v1.0/applications?$skiptoken=x"} if more else {}
    return {"@odata.context": CONTEXT} | next_page | {"value": [application(app, key)]}


@pytest.mark.parametrize(
    ("pages", "member"),
    [
        ([graph_page(ONE, "k1"), graph_page(TWO, "k2", more=True)], "value"),
        # Nothing says that the second is the first one's next: it may be another tenant's, or the third of three.
        ([graph_page(ONE, "k1", more=True), graph_page(TWO, "k2")], "value"),
        ([{"assets": [gcp("k1")], "nextPageToken": "x"}, {"assets": [gcp("k2")]}], "assets"),
    ],
    ids=["last", "first", "google"],
)
@pytest.mark.parametrize("as_array", [True, False])
def test_a_page_whose_next_one_may_be_missing_is_reported(
    tmp_path: Path, pages: list[dict[str, Any]], member: str, as_array: bool
) -> None:
    file = tmp_path / "pages.json"
    file.write_text(json.dumps(pages) if as_array else "\n".join(json.dumps(page, indent=1) for page in pages))
    keys, (bad,) = rows_of(file)
    assert [key.facts.key_id for key in keys] == ["k1", "k2"]
    assert "one page of several" in bad.reason
    assert f"jq '.{member}[]'" in bad.reason


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            {"value": [{"displayName": "a", "passwordCredentials": [secret("k1")]}]},
            "names no application: select appId",
        ),
        ({"appId": ONE, "passwordCredentials": ["System.Collections.Hashtable"]}, "ConvertTo-Json -Depth 5"),
        ({"appId": ONE, "keyId": ["k1", "k2"]}, "keyId: is a list"),
    ],
)
def test_an_application_that_is_not_whole_is_refused_with_what_to_do(tmp_path: Path, document: Any, said: str) -> None:
    """And the caller's `--account` is none of its applications'."""
    file = tmp_path / "apps.json"
    file.write_text(json.dumps(document))
    keys, (bad,) = rows_of(file, account_id=TWO)
    assert keys == []
    assert said in bad.reason


@pytest.mark.parametrize("text", ["[{0}]\n[{1}]", "[[{0}], [{1}]]", '{{"value": [{0}]}} {{"value": [{1}]}}'])
def test_the_listings_of_several_applications_are_not_one_applications(tmp_path: Path, text: str) -> None:
    file = tmp_path / "credentials.json"
    file.write_text(text.format(json.dumps(secret("k1")), json.dumps(secret("k2"))))
    with pytest.raises(InventoryInvalid, match="several listings, and --account names one application"):
        rows_of(file, account_id=ONE)


def struct(snake: bool, **fields: tuple[str, Any]) -> dict[str, Any]:
    return {"fields": {name: {f"{kind}{'_v' if snake else 'V'}alue": value} for name, (kind, value) in fields.items()}}


@pytest.mark.parametrize("snake", [False, True])
def test_an_asset_whose_values_are_written_with_their_types_is_read(tmp_path: Path, snake: bool) -> None:
    """As protobuf's Struct; it was a key without its age, and an active one."""
    key = gcp("k1")
    data = struct(snake, name=("string", key["name"]), validAfterTime=("string", key["validAfterTime"]))
    data["fields"] |= struct(snake, disabled=("bool", True), keyType=("string", "USER_MANAGED"))["fields"]
    file = tmp_path / "assets.json"
    asset = {"name": "//iam.googleapis.com/projects/p1/serviceAccounts/12345/keys/k1"}
    file.write_text(
        json.dumps([asset | {"assetType": "iam.googleapis.com/ServiceAccountKey", "resource": {"data": data}}])
    )
    (found,), bad = rows_of(file)
    assert (found.account_id, found.idle, bad) == ("a@p1.iam.gserviceaccount.com", "inactive", [])
    assert found.facts.last_rotated_at is not None


def test_an_asset_of_unknown_types_is_no_key_without_an_age(tmp_path: Path) -> None:
    file = tmp_path / "assets.json"
    data = {"fields": {"name": {"stringValue": "x"}, "validAfterTime": {"moment": "2026-01-01T00:00:00Z"}}}
    file.write_text(json.dumps([gcp("k1") | {"resource": {"data": data}}]))
    keys, (bad,) = rows_of(file)
    assert (keys, bad.reason) == ([], "resource.data: 'validAfterTime' has no type of protobuf's values")


@pytest.mark.parametrize(
    "text",
    [
        "account_id;key_id;age_days;\na;k1;90;\na;k2;91;\n",
        ",account_id,key_id,age_days\n0,a,k1,90.0\n1,a,k2,91.0\n",  # pandas
        "Unnamed: 0,account_id,key_id,age_days\n0,a,k1,90.0\n1,a,k2,91.0\n",  # pandas, twice
        '"","account_id","key_id","age_days"\n"1","a","k1",90\n"2","a","k2",91\n',  # R
        "account_id,,key_id,age_days,,\na,,k1,90,,\na,,k2,91,,\n",
    ],
    ids=["ends", "pandas", "pandas-twice", "r", "empty-columns"],
)
def test_columns_without_a_name_are_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(text)
    keys, bad = rows_of(file)
    assert ([(key.account_id, key.facts.key_id, key.facts.age_days) for key in keys], bad) == (
        [("a", "k1", 90), ("a", "k2", 91)],
        [],
    )


def test_a_header_without_a_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.csv"
    file.write_text("Unnamed: 0\n1\n")
    with pytest.raises(InventoryInvalid, match="names no column"):
        rows_of(file, format="csv")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("account_id,key_id,\na,k1,2020-01-01\n", "has a value in a column without a name"),
        (",account_id,key_id\nold,a,k1\n", "has a value in a column without a name"),
        ("account_id,key_id,age_days\na,k1,90,x\n", "has 4 cells, and the header 3"),
        ("account_id,key_id,age_days,\na,k1\n", "has 2 cells, and the header 4"),
        # An empty cell too many may hide that the others stand in each other's columns.
        ("account_id,key_id,kind,age_days,owner\na,k1,access_key,1,000,\n", "has 6 cells, and the header 5"),
        ("account_id,key_id,age_days,owner\na,k1,45,5,\n", "has 5 cells, and the header 4"),
        ("account_id,key_id,age_days,\na,k1,90\n", "has 3 cells, and the header 4"),
    ],
)
def test_a_value_without_a_name_is_not_ignored(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(text)
    keys, (bad,) = rows_of(file)
    assert (keys, bad.reason) == ([], reason)


@pytest.mark.parametrize(
    "joined",
    [
        "account_id,key_id,last_used_at\na,k1,2026-01-01T00:00:00Z\naccount_id,key_id,last_rotated_at,owner\nb,k2,2020-01-01T00:00:00Z,\n",
        "account_id,key_id,age_days\na,k1,5\nkey_id,account_id,age_days,owner\nk2,b,5,\n",
        ",account_id,key_id\n0,a,k1\naccount_id,key_id,source\n123456789012,k2,vault\n",
    ],
)
def test_a_joined_file_of_other_columns_is_refused_however_many_they_are(tmp_path: Path, joined: str) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(joined)
    with pytest.raises(InventoryInvalid, match="line 3 is a header of other columns"):
        rows_of(file)


@pytest.mark.parametrize("account", ["123456789012.0", "123,456,789,012", "1.23457E+11"])
@pytest.mark.parametrize("place", ["account_id", "key_id"])
def test_an_id_that_was_read_as_a_number_is_refused(tmp_path: Path, account: str, place: str) -> None:
    file = tmp_path / "keys.csv"
    row = {"account_id": "a", "key_id": "k1"} | {place: f'"{account}"'}
    file.write_text(f"account_id,key_id,age_days\n{row['account_id']},{row['key_id']},45.0\n")
    keys, (bad,) = rows_of(file)
    assert (keys, bad.reason.split(":")[0]) == ([], place)
    assert "read as a number" in bad.reason


def test_rs_gaps_are_gaps(tmp_path: Path) -> None:
    file = tmp_path / "keys.csv"
    file.write_text('"account_id","key_id","age_days","owner"\n"a","k1",45,NA\n"a",NA,45,"x"\n')
    (key,), (bad,) = rows_of(file)
    assert (key.owner, bad.reason) == (None, "key_id: is missing")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ('{{}}\n{{\n  "keys": [\n    {0},\n    {1}\n  ]\n}}\n', ["k1", "k2"]),  # Google's REST, account by account
        ('{{}}\n{{"keys": [{0}]}}\n{{"keys": [{1}]}}\n', ["k1", "k2"]),
        ('{{"keys" : [{0}, \n {1}]}}', ["k1", "k2"]),  # PostgreSQL's json_agg
        ('{{"keys": [{0}]}}\n{{}}\n{{"keys": [{1}]}}', ["k1", "k2"]),
        ('{0}\n{{\n "name": "projects/p/serviceAccounts/a@p/keys/k2"\n}}\n', ["k1", "k2"]),
    ],
    ids=["rest-pretty", "rest-compact", "json-agg", "one-without-keys", "one-pretty"],
)
def test_what_stands_in_the_first_line_does_not_decide_how_all_others_are_read(
    tmp_path: Path, text: str, ids: list[str]
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text.format(json.dumps(gcp("k1")), json.dumps(gcp("k2"))))
    keys, bad = rows_of(file)
    assert ([key.facts.key_id for key in keys], bad) == (ids, [])


@pytest.mark.parametrize(
    "text",
    [
        "11111111-1111-1111-1111-111111111111\tci\tabc8Q~made-up-secret-of-a-test\ttenant\n",
        "AKIAXXXXXXXXXXXXXXXX,wJalrXUtnFEMIK7MDENGbPxRfiCYmadeupkey\n",
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENGbPxRfiCYmadeupkey\n",
        "key1\tFULL\tq83vEjRWeJASNFZ4kBI0VniQEjRWeJASNFZ4kA==\n",
    ],
)
def test_what_a_file_without_a_header_starts_with_is_not_repeated(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(InventoryInvalid) as caught:
        rows_of(file)
    for cell in text.replace("\t", ",").replace("=", ",").strip().split(","):
        assert len(cell) < 10 or cell[:12] not in str(caught.value)


def test_terraforms_names_of_a_keys_dates_are_known(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([{"name": gcp("k1")["name"], "valid_after": "2026-01-01T00:00:00Z"}]))
    (key,), _ = rows_of(file)
    assert key.facts.last_rotated_at is not None


def test_a_file_that_was_cut_off_or_packed_is_refused_as_such(tmp_path: Path) -> None:
    for name, content, said in (
        ("cut.csv", "account_id,key_id\nä".encode()[:-1], "it ends within a character"),
        ("cut16.csv", "account_id,key_id\na,b".encode("utf-16")[:-1], "it ends within a character"),
        ("keys.gz", b"\x1f\x8b\x08\x00\xff\xff\xff", "it is gzip: unpack it"),
        ("keys.xlsx", b"PK\x03\x04\x14\x00\xff\xff", "a workbook of Excel: unpack it, or save it as CSV"),
    ):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(InventoryInvalid, match=said):
            rows_of(file)


@pytest.mark.parametrize("made", [1750000000.0, "soon"])
def test_a_report_whose_time_is_no_moment_is_refused(tmp_path: Path, made: Any) -> None:
    """It would count as of the day on which its file was written."""
    header = "user,arn,access_key_1_active,access_key_1_last_rotated,access_key_2_active,access_key_2_last_rotated"
    content = base64.b64encode(f"{header}\nu,arn:aws:iam::1:user/u,true,2025-01-01T00:00:00Z,false,N/A".encode())
    file = tmp_path / "report.json"
    file.write_text(json.dumps({"Content": content.decode(), "GeneratedTime": made}))
    with pytest.raises(InventoryInvalid, match="GeneratedTime is not a moment"):
        list(read(Inventory(file)))


def test_the_value_of_terraforms_password_is_in_no_rejects_file(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path / "rejects.jsonl")
    rejects.add(BadRow(1, "x", {"key_id": "k1", "value": "S3cr3t-of-mine!", "values": ["kept"]}))
    rejects.close()
    written = json.loads(rejects.file.read_text())
    assert "value" not in written
    assert written["key_id"] == "k1"


def test_what_is_read_as_a_table_is_rejected_as_one(tmp_path: Path) -> None:
    """Whatever the file is called: else nothing reads the rejects again."""
    header = "user,arn,access_key_1_active,access_key_1_last_rotated,access_key_2_active,access_key_2_last_rotated"
    content = base64.b64encode(f"{header}\n".encode()).decode()
    for name, text, is_table in (
        ("report.json", json.dumps({"Content": content}), True),
        ("report.txt", header, True),
        ("keys.csv", json.dumps([gcp("k1")]), False),
        ("keys.jsonl", '{"account_id": "a", "key_id": "k"}\n', False),
        ("keys.tsv", "account_id\tkey_id\n", True),
    ):
        file = tmp_path / name
        file.write_text(text)
        assert holds_table(file) is is_table, name


@pytest.mark.parametrize(
    ("wrapped", "ids"),
    [
        ([gcp("k1"), gcp("k2")], ["k1", "k2"]),
        (
            [
                {"appId": "a", "passwordCredentials": [{"keyId": "k1", "startDateTime": "2026-01-01T00:00:00Z"}]},
                {"appId": "b", "passwordCredentials": [{"keyId": "k2", "startDateTime": "2026-01-01T00:00:00Z"}]},
            ],
            ["k1", "k2"],
        ),
    ],
    ids=["keys of Google's", "applications"],
)
def test_who_asked_for_a_listing_is_not_whose_keys_are_in_it(
    tmp_path: Path, wrapped: list[Any], ids: list[str]
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"client_id": "the-reader", "value": wrapped}))
    keys, bad = rows_of(file)
    assert ([key.facts.key_id for key in keys], bad) == (ids, [])


def test_a_key_a_line_with_a_list_of_its_own_is_a_line_all_the_same(tmp_path: Path) -> None:
    """A broken line after it loses that one, and not the file."""
    file = tmp_path / "keys.jsonl"
    row = '{{"account_id": "{0}", "key_id": "k{0}", "age_days": 5{1}}}'
    file.write_text(
        "\n".join([row.format("a", ""), row.format("b", ', "items": ["x"]'), "broken {", row.format("z", "")])
    )
    keys, bad = rows_of(file)
    assert [key.account_id for key in keys if key.account_id != "b"] == ["a", "z"]
    assert "is not JSON" in [one.reason for one in bad]
