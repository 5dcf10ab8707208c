"""Labelled cases: stored so that only their own row opens, replayed in the shadow, and judged by exact bounds."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.calls import CallRecord
from keyturn.jobs.tables import outbox, rotation_jobs
from keyturn.labels.bounds import cases_needed, upper_bound
from keyturn.labels.contracts import LabelledCase
from keyturn.labels.errors import RequirementUnreadable
from keyturn.labels.figures import changes_of, figures_by_line, figures_of, unanswered_of, unasked_of
from keyturn.labels.replay import Replay, Replayed
from keyturn.labels.requirements import parse_requirement
from keyturn.labels.store import PAGE, LabelStore
from keyturn.labels.tables import labelled_cases
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.budget import Budget
from keyturn.llm.errors import AuthenticationFailed, ProviderUnavailable
from keyturn.payload_errors import PayloadError, PayloadKeyUnknown
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.retention import Retention, RetentionStore
from keyturn.rotations.contracts import RotationRequest
from tests.support.boundaries import FixedPrice, guarded
from tests.support.cases import QUESTION
from tests.support.keys import KEYRING, NEWER, OLDER, ring
from tests.support.labels import NO, labelled
from tests.support.workers_for_tests import ELIGIBLE, Script, with_approval

PROMPT = RotationRequest.model_fields["prompt_version"].default


async def replayed(
    cases: list[LabelledCase],
    *said: str | BaseException,
    catalogue: Catalogue | None = None,
    records: list[CallRecord] | None = None,
    max_usd: Decimal | None = None,
    usd: Decimal | None = Decimal("0.00098"),
) -> list[Replayed]:
    catalogue = catalogue or load_catalogue()
    take: Callable[[CallRecord], None] = (lambda _: None) if records is None else records.append
    boundary = ModelBoundary({"*": [Script(*said)]}, catalogue, guard=guarded(prices=FixedPrice(usd)), record=take)
    budget = None if max_usd is None else Budget(max_usd, None, may_exceed=False)
    return list(await Replay(boundary, catalogue, PROMPT, budget).run(cases))


# -- stored ---------------------------------------------------------------------------------------------------------


async def test_a_case_is_stored_once_for_its_event_and_read_as_it_was(engine: AsyncEngine) -> None:
    store, case = LabelStore(engine, KEYRING), labelled(reason="It is in use.")
    await store.add(case)
    await store.add(case)
    assert await store.cases(tenant_id="default") == [case]
    assert await store.cases(tenant_id="other") == []
    [row] = await store.counts(tenant_id="default")
    assert (row["policy_lines"], row["label"], row["source"], row["cases"]) == ("P-7", "eligible", "approval", 1)


async def test_no_row_can_be_read_without_the_keys(engine: AsyncEngine) -> None:
    """Neither question, key, account, answer, reason nor who said it."""
    case = labelled("not_eligible", reason="Luna's private words")
    await LabelStore(engine, ring(NEWER, OLDER)).add(case)
    async with engine.connect() as connection:
        rows = str([dict(row) for row in (await connection.execute(select(labelled_cases))).mappings()])
    for private in (QUESTION, "acct_10234", "Luna's private words", "omar", '"decision"'):
        assert private not in rows
    with pytest.raises(PayloadKeyUnknown, match="encrypted under the key newer"):
        await LabelStore(engine, ring(OLDER)).cases(tenant_id="default")


@pytest.mark.parametrize(
    "changed",
    [{"tenant_id": "other"}, {"workflow_id": "rotate:x"}, {"event_id": "e:1"}, {"label": "not_eligible"}],
    ids=lambda changed: next(iter(changed)),
)
async def test_a_row_that_was_copied_or_changed_does_not_open(engine: AsyncEngine, changed: dict[str, str]) -> None:
    """Under another tenant, workflow, event or label."""
    store = LabelStore(engine, KEYRING)
    await store.add(labelled())
    async with engine.begin() as connection:
        await connection.execute(update(labelled_cases).values(changed))
    with pytest.raises(PayloadError):
        await store.cases(tenant_id=changed.get("tenant_id", "default"))


async def test_a_payload_key_can_be_retired_once_its_cases_are_under_the_newest(engine: AsyncEngine) -> None:
    """What the keys here do not open stays as it is."""
    case, other = labelled(), labelled()
    await LabelStore(engine, ring(OLDER)).add(case)
    await LabelStore(engine, ring(NEWER, OLDER)).add(other)
    assert await LabelStore(engine, ring(NEWER)).renew() == 0
    assert await LabelStore(engine, ring(NEWER, OLDER)).renew(tenant_id="other") == 0
    assert await LabelStore(engine, ring(NEWER, OLDER)).renew() == 1
    found = await LabelStore(engine, ring(NEWER)).cases(tenant_id="default")
    assert {one.event_id for one in found} == {case.event_id, other.event_id}


async def test_of_one_decision_the_last_label_counts(engine: AsyncEngine) -> None:
    """What was approved, and rolled back later, was not right."""
    store, approved = LabelStore(engine, KEYRING), labelled()
    later = approved.labelled_at + timedelta(days=1)
    back = {"label": "rolled_back", "source": "roll_back", "event_id": "job:1", "labelled_at": later}
    await store.add(approved.model_copy(update=back))
    await store.add(approved)
    assert [case.label for case in await store.cases(tenant_id="default")] == ["rolled_back"]


async def test_many_cases_are_read_page_by_page_and_the_newest_first(sqlite_engine: AsyncEngine) -> None:
    """Also where a page ends among labels of the same moment."""
    store, at = LabelStore(sqlite_engine, KEYRING), datetime.now(UTC).replace(microsecond=0)
    cases = [labelled(labelled_at=at - timedelta(seconds=number // 7)) for number in range(PAGE + 20)]
    for case in cases:
        await store.add(case)
    found = await store.cases(tenant_id="default")
    assert {case.event_id for case in found} == {case.event_id for case in cases}
    assert [case.labelled_at for case in found] == sorted((case.labelled_at for case in cases), reverse=True)
    assert await store.cases(tenant_id="default", limit=3) == found[:3]


async def test_labels_expire_by_the_day_of_the_answer(engine: AsyncEngine) -> None:
    store, now = LabelStore(engine, KEYRING), datetime.now(UTC)
    await store.add(labelled(labelled_at=now - timedelta(days=31)))
    await store.add(young := labelled(labelled_at=now - timedelta(days=29)))
    limits = Retention(labels=30).limits(now)
    assert await RetentionStore(engine).count(limits) == {"labels": 1}
    assert await RetentionStore(engine).delete(limits) == {"labels": 1}
    assert await store.cases(tenant_id="default") == [young]


# -- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "of", "bound"),
    [
        # qbeta(0.95, count + 1, of - count); for no fault it is 1 - 0.05 ** (1 / of).
        (0, 1, 0.95),
        (0, 10, 0.258866),
        (0, 100, 0.029513),
        (0, 2_995, 0.0009998),
        (1, 10, 0.394163),
        (1, 20, 0.216106),
        (5, 10, 0.777559),
        (10, 100, 0.163718),
        (9, 10, 0.994884),
        (10, 10, 1.0),
        (0, 0, 1.0),
    ],
)
def test_the_bound_is_that_of_clopper_and_pearson(count: int, of: int, bound: float) -> None:
    assert upper_bound(count, of) == pytest.approx(bound, abs=2e-6)


def test_so_few_faults_or_fewer_come_once_in_twenty_times_at_the_bound() -> None:
    """The definition, computed by whole numbers of combinations."""
    for of in (1, 7, 40, 333):
        for count in {0, 1, of // 3, of - 1} & set(range(of)):
            rate = upper_bound(count, of)
            tail = math.fsum(math.comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(count + 1))
            assert tail == pytest.approx(0.05, abs=1e-9)
    assert upper_bound(40_000, 100_000) == pytest.approx(0.402552, abs=2e-5)


def test_the_bound_lies_above_the_rate_as_often_as_it_says_and_wilsons_does_not() -> None:
    """Whatever the rate: of a thousand cases, for those that a release gate asks about."""
    of = 1_000
    bounds = [upper_bound(count, of) for count in range(30)]
    for rate in (0.0005, 0.001, 0.00271, 0.003, 0.005):
        chances = [math.comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(30)]
        assert sum(chance for chance, bound in zip(chances, bounds, strict=True) if bound < rate) <= 0.05
    z_squared = 1.6448536**2
    wilson = z_squared / (of + z_squared)  # for no fault
    assert 1 - (1 - 1.0001 * wilson) ** of == pytest.approx(0.933, abs=5e-4)


def test_how_many_cases_a_requirement_takes_is_known() -> None:
    assert cases_needed(0.001) == 2_995
    assert upper_bound(0, cases_needed(0.001)) <= 0.001 < upper_bound(0, cases_needed(0.001) - 1)


# -- replayed -------------------------------------------------------------------------------------------------------


async def test_a_replay_asks_the_recorded_question_at_its_own_time_and_creates_nothing(
    sqlite_engine: AsyncEngine,
) -> None:
    """A case of half a year ago is decided as it was; its calls are those of the user `eval`."""
    records: list[CallRecord] = []
    case = labelled()
    old = datetime.now(UTC) - timedelta(days=180)
    facts = case.request.credential.model_copy(update={"observed_at": old})
    asked = case.request.model_copy(update={"credential": facts})
    verdict = case.supported.model_copy(update={"decided_at": old + timedelta(hours=2)})
    [one] = await replayed([case.model_copy(update={"request": asked, "verdict": verdict})], ELIGIBLE, records=records)
    assert one.judged is not None
    assert (one.judged.verdict.decision, one.is_other_policy) == ("eligible", False)
    assert changes_of([one]) == []
    [call] = records
    assert (call.user_id, call.trace_id[:5]) == ("eval", "eval_")
    async with sqlite_engine.connect() as connection:
        for table in (rotation_jobs, outbox):
            assert (await connection.execute(select(func.count()).select_from(table))).scalar_one() == 0


async def test_verdicts_are_counted_against_the_labels_with_what_would_have_happened() -> None:
    """A yes that people denied, a no that they approved, and models against the rule."""
    yes = await replayed([labelled(), labelled("not_eligible"), labelled("rolled_back")], ELIGIBLE)
    total = figures_of("all", yes)
    assert (total.cases, total.right) == (3, 1)
    assert (total.wrong_yes.count, total.wrong_yes.of) == (2, 2)
    assert (total.wrong_jobs, total.wrong_no.count, total.wrong_no.of) == (total.wrong_yes, 0, 1)
    assert (total.readings, total.consequences) == ((2, 0), {"job": 3})
    no = await replayed([labelled(), labelled("not_eligible")], NO)
    total = figures_of("all", no)
    assert (total.right, total.wrong_yes.count, total.wrong_no.count) == (1, 0, 1)
    assert (total.disagreements.count, total.readings, total.consequences) == (2, (0, 1), {"person": 2})
    assert total.cost_usd == Decimal("0.00098") * 4, "both calls of each case"
    rejected = await replayed([labelled()], ELIGIBLE.replace("30", "90"))
    total = figures_of("all", rejected)
    assert (total.wrong_no.count, total.readings, total.consequences) == (1, (0, 0), {"nothing": 1})
    [change] = changes_of(rejected)
    assert (change.then, change.now) == ("eligible within 30 days", "rejected: unsupported_window")


async def test_a_candidate_policy_is_asked_under_its_own_lines() -> None:
    """Other windows and approvals are changes; a line that it does not have is no answer, and is counted."""
    cases = [labelled(), labelled("not_eligible", disagreed=True), labelled()]
    tighter = with_approval(window_days=7)
    found = await replayed(cases, ELIGIBLE.replace("30", "7"), catalogue=tighter)
    assert [one.is_other_policy for one in found] == [True, True, True]
    assert {(one.then, one.now) for one in changes_of(found)} == {
        ("eligible within 30 days", "eligible within 7 days"),
        ("disagreement", "eligible within 7 days"),
    }
    total = figures_of("all", found)
    assert (total.consequences, total.wrong_yes.count, total.wrong_jobs.count) == ({"person": 3}, 1, 0)
    without = Catalogue(line for line in load_catalogue() if line.id != "P-7")
    lost = await replayed(cases, ELIGIBLE, catalogue=without)
    assert (unasked_of(lost), unanswered_of(lost), figures_by_line(lost)[-1].cases) == (3, {}, 0)


async def test_what_fails_for_a_moment_is_asked_once_more_and_what_fails_for_good_is_counted() -> None:
    [one] = await replayed([labelled()], ProviderUnavailable("away"), ELIGIBLE)
    assert one.judged is not None
    assert unanswered_of(await replayed([labelled()], ProviderUnavailable("away"))) == {"provider_unavailable": 1}
    assert unanswered_of(await replayed([labelled()], AuthenticationFailed("no"))) == {"authentication_failed": 1}


async def test_a_replay_stops_at_its_price() -> None:
    """Not one call over it; and at once where a call has no price."""
    cases = [labelled() for _ in range(40)]
    found = await replayed(cases, ELIGIBLE, max_usd=Decimal("0.00500"))
    assert unanswered_of(found) == {"max_usd_reached": 35}
    assert figures_of("all", found).cost_usd == Decimal("0.00490")
    unpriced = await replayed(cases, ELIGIBLE, max_usd=Decimal(5), usd=None)
    assert unanswered_of(unpriced) == {"price_unknown": 39}


# -- required -------------------------------------------------------------------------------------------------------


async def test_a_requirement_is_compared_with_the_bound_and_not_with_the_rate() -> None:
    """No wrong yes in one case shows little; the sentence says how many it takes."""
    total = figures_of("all", await replayed([labelled(), labelled("not_eligible")], NO))
    assert parse_requirement("wrong_yes<=0.95").unmet(total) is None
    assert parse_requirement(" wrong_yes <= 0.001 ").unmet(total) == (
        "wrong_yes<=0.001 does not hold: 0 of 1 cases, so the rate may be 95.0000% (upper 95% bound); 2,995 cases "
        "without one would show it"
    )
    assert "1 of 1 cases" in str(parse_requirement("wrong_no<=0.5").unmet(total))
    assert parse_requirement("disagreements<=1").unmet(total) is None
    assert parse_requirement("cost_usd<=0.01").unmet(total) is None
    assert "it is $0.0039" in str(parse_requirement("cost_usd<=0.001").unmet(total))
    assert parse_requirement("p95_seconds<=60").unmet(total) is None
    assert "p95_seconds<=0 does not hold" in str(parse_requirement("p95_seconds<=0").unmet(total))


def test_without_a_case_no_rate_is_bounded() -> None:
    """A gate that passes on nothing is none."""
    total = figures_of("all", [])
    for text in ("wrong_yes<=0.999", "wrong_jobs<=0.999", "wrong_no<=0.5", "p95_seconds<=60"):
        assert parse_requirement(text).unmet(total)


@pytest.mark.parametrize(
    "text",
    ["", "wrong_yes", "wrong_yes<0.1", "wrong_yes<=", "wrong_yes<=-1", "wrong_yes<=1e-3", "wrong_yes<=0.1 or 1", "x<=1",
     "wrong_yes>=0.1", "wrong_yes<=nan", "wrong_yes<=\u0661", "__import__<=1"],
)  # fmt: skip
def test_an_expression_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(RequirementUnreadable):
        parse_requirement(text)


def test_an_unknown_price_meets_no_limit_on_cost() -> None:
    """It is unknown, and not 0."""
    changed: dict[str, Any] = {"cost_usd": None}
    total = figures_of("all", [])
    unknown = type(total)(**{**vars(total), **changed})
    assert "a price is unknown" in str(parse_requirement("cost_usd<=5").unmet(unknown))
