"""Waivers: which key is exempt, under which lines, until when, and who may say so."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.store import BulkStore, Run
from keyturn.database import open_database
from keyturn.errors import InvalidRequest
from keyturn.execution.mapping import KeyMap, KeyMapping
from keyturn.jobs.in_flight import JobRow
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import URGENT, rotation_jobs
from keyturn.owners import OwnerRule, Owners
from keyturn.patterns import Pattern
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.policy.errors import UnknownPolicyLine
from keyturn.policy.line import PolicyLine, digest_of_line
from keyturn.waivers.contracts import AppliedWaiver, Waiver
from keyturn.waivers.errors import UnknownWaiver, WaiverRefused
from keyturn.waivers.granting import exceptions_of, new_waiver
from keyturn.waivers.jobs import WaivedJobs, open_jobs_of
from keyturn.waivers.known import expect_owner_known
from keyturn.waivers.rules import find_waiver
from keyturn.waivers.store import WaiverBook, WaiverStore
from tests.support.cases import facts, order

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
CATALOGUE = load_catalogue()
P7 = CATALOGUE.current("P-7")
KEY: dict[str, Any] = {"account_id": "svc-pay-3", "key_id": "key_01", "owner": "payments", "compromised": False}


def line(name: str, **changed: Any) -> PolicyLine:
    return P7.model_copy(update={"id": name} | changed)


def waiver(number: int = 1, **changed: Any) -> Waiver:
    fields: dict[str, Any] = {
        "waiver_id": f"waiver_{number}",
        "tenant_id": "default",
        "account": "svc-pay-*",
        "reason": "the vendor replaces it",
        "granted_by": "omar",
        "granted_at": NOW - timedelta(days=10),
        "until": NOW + timedelta(days=20),
    }
    return Waiver.model_validate(fields | changed)


def found(*waivers: Waiver, lines: tuple[PolicyLine, ...] = (P7,), **key: Any) -> str | None:
    applied = find_waiver(waivers, lines, now=NOW, **KEY | key)
    return None if applied is None else applied.waiver_id


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ({"account": "svc-pay-*"}, True),
        ({"account": "svc-*-3"}, True),
        ({"account": "svc-pay"}, False),
        ({"account": "*"}, True),
        ({"account": None, "key_id": "key_01"}, True),
        ({"account": None, "key_id": "key_02"}, False),
        ({"account": "svc-pay-*", "key_id": "key_02"}, False),
        ({"account": None, "owner": "payments"}, True),
        ({"account": None, "owner": "shipping"}, False),
        ({"account": None, "line": "P-7"}, True),
        ({"account": None, "line": "P-8"}, False),
        ({"until": NOW}, False),
        ({"until": NOW + timedelta(seconds=1)}, True),
    ],
)
def test_a_waiver_covers_what_it_names_until_it_ends(scope: dict[str, Any], covered: bool) -> None:
    assert (found(waiver(**scope)) is not None) is covered


def test_an_arn_is_covered_by_its_last_part_as_in_a_key_map() -> None:
    arn = "arn:aws:iam::123456789012:user/svc-pay-3"
    assert found(waiver(), account_id=arn) == "waiver_1"
    assert found(waiver(account="arn:aws:iam::123456789012:*"), account_id=arn) == "waiver_1"


def test_each_line_under_which_a_key_is_due_must_be_waived() -> None:
    """A waiver of one line says nothing of the others; together they may cover all."""
    due = (line("P-7"), line("P-8"))
    assert found(waiver(line="P-7"), lines=due) is None
    both = waiver(1, line="P-7"), waiver(2, line="P-8", until=NOW + timedelta(days=3))
    assert found(*both, lines=due) == "waiver_2"  # the one that ends first
    assert found(waiver(), lines=due) == "waiver_1"


def test_a_line_limits_how_long_its_waivers_last() -> None:
    """A longer one ends for this line when the limit is reached; 0 allows none."""
    assert found(waiver(), lines=(line("P-7", waiver_days=10),)) == "waiver_1"
    assert found(waiver(), lines=(line("P-7", waiver_days=9),)) is None
    assert found(waiver(), lines=(line("P-7", waiver_days=0),)) is None
    assert found(waiver(granted_at=NOW), lines=(line("P-7", waiver_days=0),)) is None
    assert found(waiver(until=NOW + timedelta(days=3_000), granted_at=NOW - timedelta(days=366))) is None


def test_a_compromised_key_is_exempt_only_if_the_waiver_says_so() -> None:
    assert found(waiver(), compromised=True) is None
    assert found(waiver(covers_compromised=True), compromised=True) == "waiver_1"


def test_no_one_exempts_keys_of_their_own() -> None:
    """However either name is written."""
    assert found(waiver(granted_by="Payments")) is None
    assert found(waiver(granted_by="Payments"), owner="shipping") == "waiver_1"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"until": NOW - timedelta(days=1)}, "is in the past"),
        ({"until": NOW + timedelta(days=400)}, "365 days at most, until 2027-11-27"),
        ({"line": "SHORT", "until": NOW + timedelta(days=31)}, "a waiver of SHORT lasts 30 days"),
        ({"line": "NEVER", "until": NOW + timedelta(days=1)}, "a waiver of NEVER is not allowed"),
        ({"owner": "omar"}, "omar owns the keys"),
        ({"account": "*"}, "is every account"),
        ({"covers_compromised": True}, "is for one key"),
        ({"line": "APPROVED"}, "omar is no approver of APPROVED: priya may grant it"),
    ],
)
def test_what_may_not_be_granted_is_refused_with_the_reason(changed: dict[str, Any], says: str) -> None:
    lines = [
        line("SHORT", waiver_days=30),
        line("NEVER", waiver_days=0),
        line("APPROVED", approval="required", approvers=("priya",)),
    ]
    given = waiver().model_dump(exclude={"waiver_id", "granted_at"}) | changed
    with pytest.raises(WaiverRefused, match=says):
        new_waiver(Catalogue(lines), given, now=NOW)


def test_an_exposed_key_is_exempted_alone_and_by_its_id() -> None:
    given = waiver().model_dump(exclude={"waiver_id", "granted_at"}) | {"covers_compromised": True, "key_id": "key_01"}
    assert new_waiver(CATALOGUE, given, now=NOW).scope == "key key_01, account svc-pay-*, compromised keys too"


def test_a_waiver_that_names_nothing_or_has_no_end_is_refused_by_field() -> None:
    """It would be for every key, or for ever; and a reason with a secret in it would be stored in plain text."""
    given = waiver().model_dump(exclude={"waiver_id", "granted_at"})
    for changed, says in (
        ({"account": None}, "names an account, a key, an owner or a policy line"),
        ({"until": None}, "until"),
        ({"reason": " "}, "reason"),
        ({"reason": "by the key ghp_" + "a1B2" * 9}, "reason"),
        ({"until": datetime(2026, 12, 24)}, "time zone"),  # noqa: DTZ001 - what is refused
    ):
        with pytest.raises(InvalidRequest, match=says):
            new_waiver(CATALOGUE, given | changed, now=NOW)
    with pytest.raises(UnknownPolicyLine):
        new_waiver(CATALOGUE, given | {"line": "P-777"}, now=NOW)


def test_the_lines_for_which_a_waiver_counts_less_are_named() -> None:
    lines = [line("SHORT", waiver_days=15), line("LONG"), line("THEIRS", approval="required", approvers=("priya",))]
    assert exceptions_of(waiver(), Catalogue(lines), Owners()) == [
        "for SHORT it ends at 2026-12-02 23:59:59Z: the line allows no longer",
        "for THEIRS it does not count: priya may grant it",
    ]


def test_a_waiver_without_a_line_does_not_exempt_from_a_line_that_others_approve() -> None:
    """Else anyone could exempt everything by naming no line; and approvers that change later count, too."""
    theirs = line("P-7", approval="required", approvers=("priya",))
    for scope in ({}, {"account": None, "owner": "payments"}, {"line": "P-7"}):
        assert found(waiver(**scope), lines=(theirs,)) is None
        assert found(waiver(granted_by="Priya", **scope), lines=(theirs,)) == "waiver_1"


def test_the_last_day_that_a_refusal_names_is_taken() -> None:
    given = waiver().model_dump(exclude={"waiver_id", "granted_at"})
    last = {"until": datetime(2027, 11, 27, 23, 59, 59, tzinfo=UTC)}
    assert new_waiver(CATALOGUE, given | last, now=NOW).until == last["until"]
    with pytest.raises(WaiverRefused, match="until 2027-11-27"):
        new_waiver(CATALOGUE, given | {"until": datetime(2027, 11, 28, tzinfo=UTC)}, now=NOW)


def test_a_pattern_of_many_stars_is_compared_at_once() -> None:
    """A regular expression would take minutes, and a worker would stand still."""
    began = time.monotonic()
    assert found(waiver(account="*a" * 300 + "*b"), account_id="a" * 600) is None
    assert found(waiver(account="*a" * 300 + "*"), account_id="a" * 600) == "waiver_1"
    assert time.monotonic() - began < 1


def test_a_line_that_says_nothing_of_waivers_is_the_line_it_always_was() -> None:
    """Its digest is in approvals and decisions that were made before."""
    assert digest_of_line(line("P-7")) == digest_of_line(line("P-7", waiver_days=None))
    assert digest_of_line(line("P-7")) != digest_of_line(line("P-7", waiver_days=30))


@pytest.fixture
async def engine(sqlite: URL) -> AsyncIterator[AsyncEngine]:
    engine = open_database(sqlite)
    yield engine
    await engine.dispose()


def holding(**changed: Any) -> Waiver:
    now = datetime.now(UTC)
    return waiver(**{"granted_at": now, "until": now + timedelta(days=5)} | changed)


@pytest.mark.parametrize("by", ["file", "job", "inventory", "nothing", "another tenant's job"])
async def test_an_owner_whom_nothing_names_cannot_have_a_waiver(engine: AsyncEngine, store: JobStore, by: str) -> None:
    """A name that is misspelt would exempt nothing, in silence; capitals do not matter."""
    owners = Owners(KeyMap([KeyMapping(account="svc-x", owner="Payments")] if by == "file" else []))
    if by in {"job", "another tenant's job"}:
        tenant = "default" if by == "job" else "other"
        ordered = order(tenant_id=tenant).model_copy(update={"recorded_owner": "payments"})
        await store.create_once(ordered, idempotency_key="one", fence=1)
    if by == "inventory":
        run = Run(
            "r", "default", "decide_rotation", "f", "d", (), None, "luna", "rule", None, "w",
            again=False, loaded=False, asks=0,
        )  # fmt: skip
        await BulkStore(engine).open(run)
        await BulkStore(engine).add([{"run_id": "r", "ordinal": 1, "line": 1, "owner": "PAYMENTS"}])
    asked = expect_owner_known(holding(account=None, owner="payments"), engine, owners)
    if by in {"nothing", "another tenant's job"}:
        with pytest.raises(WaiverRefused, match="no job names the owner payments"):
            await asked
    else:
        await asked


async def test_a_waiver_holds_until_it_ends_and_stays_on_record(engine: AsyncEngine) -> None:
    store = WaiverStore(engine)
    await store.add(holding())
    await store.add(holding(waiver_id="waiver_past", until=datetime.now(UTC) - timedelta(seconds=1)))
    assert [one.waiver_id for one in await store.active(tenant_id="default")] == ["waiver_1"]
    assert await store.active(tenant_id="another") == []
    for wrong in ("waiver_9", "waiver_past"):
        with pytest.raises(UnknownWaiver):
            await store.end(wrong, tenant_id="default", by="omar")
    with pytest.raises(UnknownWaiver):
        await store.end("waiver_1", tenant_id="another", by="omar")
    await store.end("waiver_1", tenant_id="default", by="priya")
    assert await store.active(tenant_id="default") == []
    rows = await store.history(tenant_id="default", limit=10)
    assert {row["waiver_id"]: row["ended_by"] for row in rows} == {"waiver_1": "priya", "waiver_past": None}


async def test_a_process_knows_the_owner_of_the_key(engine: AsyncEngine) -> None:
    """By the key map first, so that nobody is exempt by an inventory's old owner."""
    await WaiverStore(engine).add(holding(account=None, owner="payments"))
    owners = Owners(KeyMap([KeyMapping(account="svc-moved", owner="shipping")]))
    book = WaiverBook(WaiverStore(engine), owners)

    async def waived(account_id: str) -> AppliedWaiver | None:
        return await book.find(
            [P7],
            tenant_id="default",
            account_id=account_id,
            key_id="key_01",
            recorded_owner="payments",
            compromised=False,
        )

    assert (await waived("svc-stays")) is not None
    assert (await waived("svc-moved")) is None


async def test_open_jobs_of_a_waiver_are_those_that_it_is_about(
    engine: AsyncEngine, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pages of jobs there are; a compromised key's job goes on."""
    monkeypatch.setattr("keyturn.waivers.jobs.PAGE", 1)
    made = {}
    for number, account in enumerate(("svc-pay-1", "svc-other", "svc-pay-2", "svc-pay-3")):
        ordered = order(account_id=account, credential=facts(key_id=f"key_{number}"))
        made[account] = (await store.create_once(ordered, idempotency_key=f"r:{number}", fence=1)).job_id
    async with engine.begin() as connection:
        exposed = update(rotation_jobs).where(rotation_jobs.c.job_id == made["svc-pay-2"])
        await connection.execute(exposed.values(priority=URGENT))
    found = await open_jobs_of(waiver(account="svc-pay-*"), engine, Owners())
    assert sorted(found) == sorted([made["svc-pay-1"], made["svc-pay-3"]])


def test_whoever_owns_keys_and_a_misspelt_owner_are_pointed_out() -> None:
    """The waiver may cover other keys, and an inventory may name the owner: it is granted."""
    owners = Owners(None, [OwnerRule(Pattern("svc-pay-*"), "payments")])
    [own] = exceptions_of(waiver(account="svc-pay-*", owner=None, granted_by="Payments"), Catalogue([]), owners)
    assert own.startswith("for keys that Payments owns it does not count")
    [strange] = exceptions_of(waiver(owner="paymnets"), Catalogue([]), owners)
    assert strange.startswith("no file names the owner paymnets")
    assert exceptions_of(waiver(owner="Payments"), Catalogue([]), owners) == []


async def test_an_executor_leaves_open_jobs_of_waived_keys_alone(engine: AsyncEngine) -> None:
    """Those that were created before; a compromised key's goes on, and a job of a line that is gone waits for it."""
    await WaiverStore(engine).add(holding())
    rows = [
        JobRow("job_1", "svc-pay-3", "key_01", "open", None, False, ("P-7@1",), None),
        JobRow("job_2", "svc-pay-4", "key_02", "open", None, True, ("P-7@1",), None),
        JobRow("job_3", "svc-other", "key_03", "open", None, False, ("P-7@1",), None),
        JobRow("job_4", "svc-pay-5", "key_04", "open", None, False, ("P-gone@1",), None),
        JobRow("job_5", "svc-pay-6", "key_05", "done", NOW, False, ("P-7@1",), None),
    ]
    waived = WaivedJobs(engine, Owners(), CATALOGUE, tenant_id="default")
    assert list(await waived.among(rows)) == ["job_1"]
    assert await WaivedJobs(engine, Owners(), CATALOGUE, tenant_id="another").among(rows) == {}
    assert "exempts the key until" in str(await waived.holds_back(rows[0]))
    started = rows[0]._replace(state="rotating")
    assert [await waived.holds_back(row) for row in (started, *rows[1:])] == [None] * 5
