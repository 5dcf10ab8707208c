"""Exposed keys: who may report them, in GitHub's form, and where a key is known from."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.application.exposures import kind_of, lines_of
from keyturn.bulk.load import items_of
from keyturn.bulk.tables import bulk_items, bulk_runs
from keyturn.errors import InvalidRequest
from keyturn.exposures.contracts import Exposure, KnownKey
from keyturn.exposures.errors import PublicKeysUnavailable, ReportForged
from keyturn.exposures.github import Match, read_keys, read_report, verify
from keyturn.exposures.store import ExposureStore
from keyturn.inventory.rows import InventoryKey
from keyturn.jobs.store import JobStore
from keyturn.policy.catalogue import Catalogue, load_catalogue
from tests.support.cases import facts, order

# The example of GitHub's own documentation of the partner programme, signed by the test key that it publishes.
BODY = b'[{"token":"some_token","type":"some_type","url":"some_url","source":"some_source"}]'
NAME = "f9525bf080f75b3506ca1ead061add62b8633a346606dc5fe544e29231c6ee0d"
SIGNATURE = "MEUCIFLZzeK++IhS+y276SRk2Pe5LfDrfvTXu6iwKKcFGCrvAiEAhHN2kDOhy2I6eGkOFmxNkOJ+L2y8oQ9A2T9GGJo6WJY="
PEM = (
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEsz9ugWDj5jK5ELBK42ynytbo38gP\n"
    "HzZFI03Exwz8Lh/tCfL3YxwMdLjB+bMznsanlhK0RwcGP3IDb34kQDIo3Q==\n-----END PUBLIC KEY-----"
)
PUBLISHED = json.dumps({"public_keys": [{"key_identifier": NAME, "key": PEM, "is_current": True}]}).encode()
AWS_KEY = "AKIAIOSFODNN7EXAMPLE"


def test_githubs_own_example_is_verified() -> None:
    verify(BODY, SIGNATURE, read_keys(PUBLISHED)[NAME])
    [match] = read_report(BODY)
    assert (match.type, match.key_ids()) == ("some_type", [])


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (BODY.replace(b"some_token", b"some_tokex"), SIGNATURE),
        (json.dumps(json.loads(BODY)).encode(), SIGNATURE),  # the same JSON in other bytes
        (BODY, SIGNATURE[:-4] + "AAA="),
        (BODY, ""),
        (BODY, "not base64"),
        (BODY, base64.b64encode(b"x" * 70).decode()),
        (b"", SIGNATURE),
    ],
)
def test_a_forged_report_is_refused(body: bytes, signature: str) -> None:
    with pytest.raises(ReportForged):
        verify(body, signature, read_keys(PUBLISHED)[NAME])


def test_keys_of_another_curve_or_kind_are_not_used() -> None:
    """A list may hold others; one that holds none that counts is no list."""
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    both = json.loads(PUBLISHED)["public_keys"] + [{"key_identifier": "other", "key": pem}]
    assert list(read_keys(json.dumps({"public_keys": both}).encode())) == [NAME]
    for text in (b"", b"[]", b"{}", b'{"public_keys": []}', b'{"public_keys": [{"key": "x"}]}', b"\xff"):
        with pytest.raises(PublicKeysUnavailable):
            read_keys(text)


@pytest.mark.parametrize(
    ("token", "ids"),
    [
        (AWS_KEY, [AWS_KEY]),
        (f"[default]\naws_access_key_id={AWS_KEY}\naws_secret_access_key=x", [AWS_KEY]),
        (f"{AWS_KEY}:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", [AWS_KEY]),
        ("ASIAIOSFODNN7EXAMPLE", []),  # of a session: it ends by itself
        (f"X{AWS_KEY}", []),
        ('{"type": "service_account", "private_key_id": "' + "a1" * 20 + '", "private_key": "-----"}', ["a1" * 20]),
        ("ghp_" + "x" * 36, []),
    ],
)
def test_only_ids_of_keys_are_taken_from_what_was_found(token: str, ids: list[str]) -> None:
    assert Match(token=token, type="t").key_ids() == ids


def test_a_line_for_exposed_keys_of_another_kind_is_not_named() -> None:
    line = load_catalogue().current("P-EXPOSED")
    other = Catalogue([line.model_copy(update={"applies_to": ("user_password",)})])
    assert (lines_of(other, "access_key"), len(lines_of(other, "user_password"))) == ([], 1)


def test_an_access_keys_id_shows_its_kind() -> None:
    """Where neither an inventory nor a person says it."""
    assert kind_of(AWS_KEY) == "access_key"
    assert {kind_of(one) for one in ("AKIA", "key_01", "akiaiosfodnn7example")} == {"service_account_key"}


def test_a_scanner_of_ones_own_may_name_the_key() -> None:
    match = Match.model_validate({"token": "s3cret", "type": "t", "key_id": "key_01", "commit": "unknown to us"})
    assert match.key_ids() == ["key_01"]
    digest = base64.b64encode(hashlib.sha256(b"s3cret").digest()).decode()
    assert match.answer("true_positive") == {"token_hash": digest, "token_type": "t", "label": "true_positive"}
    assert "s3cret" not in repr(match)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"type":"t"}]',
        b'[{"token":"","type":"t"}]',
        b"[" * 100_000,
        b'[{"token":"\xff","type":"t"}]',
    ],
)
def test_a_report_of_another_form_is_refused_and_not_repeated(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_report(body)
    assert "token and type" in str(refused.value)


def test_a_report_of_more_than_a_thousand_is_refused_as_a_whole() -> None:
    many = json.dumps([{"token": "t", "type": "t"}] * 1_001).encode()
    with pytest.raises(InvalidRequest, match="1,001 matches"):
        read_report(many)


async def test_a_key_is_known_by_the_newest_inventories_and_by_jobs(engine: AsyncEngine, store: JobStore) -> None:
    """Of this tenant; where several accounts have a key of the ID, all of them."""
    exposures = ExposureStore(engine)
    run: dict[str, Any] = {"task": "decide_rotation", "source": "x", "source_digest": "d", "policy_lines": []}
    run |= {"requested_by": "luna", "workflow_id": "w", "created_at": datetime.now(UTC)}
    item = {"ordinal": 1, "line": 1, "key_id": AWS_KEY, "facts": {"key_id": AWS_KEY, "kind": "access_key"}}
    async with engine.begin() as connection:
        for run_id, tenant, account in (("r1", "default", "svc-pay"), ("r2", "another", "svc-x")):
            await connection.execute(insert(bulk_runs), run | {"run_id": run_id, "tenant_id": tenant})
            owned = {"run_id": run_id, "account_id": account, "owner": "payments"}
            await connection.execute(insert(bulk_items), item | owned)
    ordered = order(account_id="svc-job", credential=facts(key_id=AWS_KEY))
    await store.create_once(ordered, idempotency_key="r:1", fence=1)
    found = await exposures.find_key(AWS_KEY, tenant_id="default")
    assert sorted(found) == [
        KnownKey("svc-job", AWS_KEY, "service_account_key", None),
        KnownKey("svc-pay", AWS_KEY, "access_key", "payments"),
    ]
    assert await exposures.find_key("AKIANONE", tenant_id="default") == []


async def test_a_key_is_found_however_many_other_inventories_were_read_since(engine: AsyncEngine) -> None:
    """Each schedule reads its own; while a newer one of the same place is being read, the one before still holds."""
    run: dict[str, Any] = {"task": "decide_rotation", "source_digest": "d", "policy_lines": [], "workflow_id": "w"}
    run |= {"requested_by": "luna", "tenant_id": "default"}
    began = datetime.now(UTC) - timedelta(days=1)
    made: list[tuple[str, str, int, str | None]]
    made = [(f"r{n}", f"account-{n}.csv", n, f"AKIA{n:016d}") for n in range(30)]
    made += [("r30", "account-1.csv", 30, "AKIAOTHERKEYOFTHEDAY"), ("r31", "account-2.csv", 31, None)]
    async with engine.begin() as connection:
        for run_id, source, minute, key in made:
            at = began + timedelta(minutes=minute)
            read = {"run_id": run_id, "source": source, "created_at": at, "loaded_at": at if key else None}
            await connection.execute(insert(bulk_runs), run | read)
            item = {"run_id": run_id, "ordinal": 1, "line": 1, "account_id": source, "key_id": key}
            if key:
                await connection.execute(insert(bulk_items), item)
    exposures = ExposureStore(engine)
    found = [await exposures.find_key(key, tenant_id="default") for _, _, _, key in made if key]
    assert [index for index, known in enumerate(found) if not known] == [1], "a newer inventory has it no more"


async def test_a_key_that_was_reported_before_anyone_knew_it_is_not_new_once_it_is_known(engine: AsyncEngine) -> None:
    """A copied report must not pass for a new one: that brings cancelled jobs back."""
    exposures = ExposureStore(engine)
    mark = Exposure(
        tenant_id="default", account_id=None, key_id="key_01", source="github", reported_by="scan",
        reported_at=datetime.now(UTC),
    )  # fmt: skip
    known = mark.model_copy(update={"account_id": "svc-pay"})
    other = known.model_copy(update={"key_id": "key_02"})
    assert [await exposures.add(one) for one in (mark, known, known, other)] == [True, False, False, True]
    assert set(await exposures.exposed(tenant_id="default")) == {
        ("", "key_01"), ("svc-pay", "key_01"), ("svc-pay", "key_02"),
    }  # fmt: skip


async def test_a_mark_stays_and_later_runs_count_the_key_as_compromised(engine: AsyncEngine) -> None:
    """Whatever an inventory says that was written before; the first report stays on record."""
    exposures = ExposureStore(engine)
    mark = Exposure(
        tenant_id="default", account_id="svc-pay", key_id="key_01", source="github", reported_by="scan",
        reported_at=datetime.now(UTC),
    )  # fmt: skip
    assert await exposures.add(mark) is True
    assert await exposures.add(mark.model_copy(update={"source": "later"})) is False
    [row] = await exposures.listed(tenant_id="default", limit=10)
    assert (row["key_id"], row["source"]) == ("key_01", "github")
    assert await exposures.exposed(tenant_id="another") == {}
    line = load_catalogue().current("P-EXPOSED")
    rows = [InventoryKey(n, account, facts(key_id="key_01")) for n, account in enumerate(("svc-pay", "svc-x"))]
    exposed = await exposures.exposed(tenant_id="default")
    items = items_of(iter(rows), [line], always_ask=False, reject=print, by_rule=True, exposed=exposed)
    assert [item["facts"].get("compromised") for item in items] == [True, None]


async def test_a_password_that_was_rotated_after_its_report_is_exposed_no_longer(engine: AsyncEngine) -> None:
    """It keeps its ID, and a key does not."""
    exposures, now = ExposureStore(engine), datetime.now(UTC)
    mark = Exposure(
        tenant_id="default", account_id="app", key_id="password", source="github", reported_by="scan",
        reported_at=now - timedelta(days=5),
    )  # fmt: skip
    await exposures.add(mark)
    exposed = await exposures.exposed(tenant_id="default")
    line = load_catalogue().current("P-EXPOSED")
    found = []
    for days in (9, 1):
        rotated = {"last_rotated_at": now - timedelta(days=days), "age_days": None, "observed_at": now}
        rows = [InventoryKey(1, "app", facts(key_id="password", **rotated))]
        items = items_of(iter(rows), [line], always_ask=False, reject=print, by_rule=True, exposed=exposed)
        found += [item["facts"].get("compromised") for item in items]
    assert found == [True, None]
    # It leaks again: the last report counts, and is not a new one.
    assert await exposures.add(mark.model_copy(update={"reported_at": now})) is False
    rotated = {"last_rotated_at": now - timedelta(days=1), "age_days": None, "observed_at": now}
    rows = [InventoryKey(1, "app", facts(key_id="password", **rotated))]
    exposed = await exposures.exposed(tenant_id="default")
    items = items_of(iter(rows), [line], always_ask=False, reject=print, by_rule=True, exposed=exposed)
    assert [item["facts"].get("compromised") for item in items] == [True]


async def test_a_key_that_no_one_knew_counts_as_compromised_once_an_inventory_lists_it(engine: AsyncEngine) -> None:
    """Whatever account it turns out to be of."""
    exposures = ExposureStore(engine)
    mark = Exposure(
        tenant_id="default", account_id=None, key_id="key_01", source="github", reported_by="scan",
        reported_at=datetime.now(UTC), place="https://github.com/o/r/blob/main/.env",
    )  # fmt: skip
    assert [await exposures.add(mark) for _ in range(2)] == [True, False]
    [row] = await exposures.listed(tenant_id="default", limit=10)
    assert (row["account_id"], row["place"]) == (None, "https://github.com/o/r/blob/main/.env")
    line = load_catalogue().current("P-EXPOSED")
    rows = [InventoryKey(n, "svc-pay", facts(key_id=key)) for n, key in enumerate(("key_01", "key_02"))]
    exposed = await exposures.exposed(tenant_id="default")
    items = items_of(iter(rows), [line], always_ask=False, reject=print, by_rule=True, exposed=exposed)
    assert [item["facts"].get("compromised") for item in items] == [True, None]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://github.com/o/r/blob/main/.env", "https://github.com/o/r/blob/main/.env"),
        ("", None),
        ("https://x/?key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None),
        ("a\nb", "ab"),
    ],
)
def test_where_a_key_was_found_is_kept_unless_it_holds_a_secret(url: str, place: str | None) -> None:
    [match] = read_report(json.dumps([{"token": "t", "type": "t", "url": url}]).encode())
    assert match.place == place


def test_the_signature_is_over_the_raw_body() -> None:
    """A key of one's own, as a scanner of one's own would use it."""
    private = ec.generate_private_key(ec.SECP256R1())
    body = b'[ {"token": "x", "type": "t"} ]'
    signature = base64.b64encode(private.sign(body, ec.ECDSA(SHA256()))).decode()
    verify(body, signature, private.public_key())
