"""Inventories that people put together: jq, PowerShell, pandas, R, and loops over accounts and applications."""

import json
from pathlib import Path
from typing import Any

import pytest

from keyturn.inventory.errors import InventoryInvalid
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
def test_an_applications_listing_beside_its_id_is_its_own(tmp_path: Path, member: str) -> None:
    """Whatever `--account` says: each would be taken for that application's."""
    file = tmp_path / "apps.json"
    file.write_text(json.dumps([{"appId": ONE, member: [secret("k1")]}, {"appId": TWO, member: [secret("k2")]}]))
    keys, bad = rows_of(file, account_id="33333333-3333-3333-3333-333333333333")
    assert ([(key.account_id, key.facts.key_id) for key in keys], bad) == ([(ONE, "k1"), (TWO, "k2")], [])


def test_an_application_that_is_named_behind_its_listing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "apps.json"
    file.write_text(json.dumps([{"keys": [secret("k1")], "appId": ONE}]))
    with pytest.raises(InventoryInvalid, match="names its application behind its keys"):
        rows_of(file, account_id=TWO)


def graph_page(app: str, key: str, *, context: str = CONTEXT, more: bool = False) -> dict[str, Any]:
    next_page = {"@odata.nextLink": "https://graph.microsoft.com/v1.0/applications?$skiptoken=x"} if more else {}
    return {"@odata.context": context} | next_page | {"value": [application(app, key)]}


@pytest.mark.parametrize("as_array", [True, False])
def test_pages_that_follow_each_other_are_one_listing(tmp_path: Path, as_array: bool) -> None:
    pages = [graph_page(ONE, "k1", more=True), graph_page(TWO, "k2")]
    file = tmp_path / "apps.json"
    file.write_text(json.dumps(pages) if as_array else "\n".join(json.dumps(page, indent=1) for page in pages))
    keys, bad = rows_of(file)
    assert ([key.facts.key_id for key in keys], bad) == (["k1", "k2"], [])


@pytest.mark.parametrize(
    "pages",
    [
        [graph_page(ONE, "k1"), graph_page(TWO, "k2", more=True)],
        [graph_page(ONE, "k1", more=True), graph_page(TWO, "k2", context=f"{CONTEXT}(x)")],
        # Nothing says that the second is the first one's: it may be another project's.
        [{"assets": [gcp("k1")], "nextPageToken": "x"}, {"assets": [gcp("k2")]}],
    ],
    ids=["the-last-is-missing", "of-another-listing", "of-no-named-listing"],
)
def test_a_page_whose_next_one_is_missing_is_reported(tmp_path: Path, pages: list[dict[str, Any]]) -> None:
    file = tmp_path / "pages.json"
    file.write_text(json.dumps(pages))
    keys, (bad,) = rows_of(file)
    assert [key.facts.key_id for key in keys] == ["k1", "k2"]
    assert "one page of several" in bad.reason


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
        "account_id;key_id;age_days;\na;k1;90\na;k2;91\n",
        "account_id,key_id,age_days\na,k1,90,\na,k2,91,\n",
        ",account_id,key_id,age_days\n0,a,k1,90.0\n1,a,k2,91.0\n",  # pandas
        "Unnamed: 0,account_id,key_id,age_days\n0,a,k1,90.0\n1,a,k2,91.0\n",  # pandas, twice
        '"","account_id","key_id","age_days"\n"1","a","k1",90\n"2","a","k2",91\n',  # R
        "account_id,,key_id,age_days,,\na,,k1,90,,\na,,k2,91,,\n",
    ],
    ids=["ends", "ends-of-the-header", "ends-of-rows", "pandas", "pandas-twice", "r", "empty-columns"],
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
    ],
)
def test_a_value_without_a_name_is_not_ignored(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(text)
    keys, (bad,) = rows_of(file)
    assert (keys, bad.reason) == ([], reason)
