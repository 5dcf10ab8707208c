"""Where an answer contradicts the evidence: who is asked again, what is recorded, and what the cache forgets."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from keyturn.cache.key import CacheKey
from keyturn.calls import CallRecord
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.errors import ProviderUnavailable, QuotaExhausted
from keyturn.llm.wire import Completion, Usage
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.errors import PolicyDiffers
from keyturn.policy.line import InProse, digest_of_lines
from keyturn.rotations.decisions import Disagreement, GroundedDecision, ProposedDecision, Rejection
from keyturn.tasks.decide_rotation import TASK
from tests.support.boundaries import guarded
from tests.support.cases import NOW, facts, request

ELIGIBLE = '{"decision":"eligible","rotation_window_days":30,"source_line_ids":["P-7"]}'
NO = '{"decision":"not_eligible","rotation_window_days":null,"source_line_ids":[]}'
LAZY = '{"decision":"not_specified","rotation_window_days":null,"source_line_ids":[]}'


class Says:
    """A provider that says or raises one thing after the other; the last one for ever."""

    passes_quota_on = False

    def __init__(self, name: str, *said: str | BaseException) -> None:
        self.name, self.model, self.said, self.calls = name, f"{name}-1", said, 0

    async def complete(self, prompt: Any, **_: Any) -> Completion:
        said = self.said[min(self.calls, len(self.said) - 1)]
        self.calls += 1
        if isinstance(said, BaseException):
            raise said
        return Completion(said, "complete", "stop", self.model, Usage(250, 80))


class Memory:
    """A cache of answers in this process."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def find(self, keys: list[CacheKey]) -> tuple[int, str] | None:
        return next(((at, self.kept[key.digest]) for at, key in enumerate(keys) if key.digest in self.kept), None)

    async def store(self, key: CacheKey, answer: str, cache_for: Any) -> bool:
        self.kept.setdefault(key.digest, answer)
        return True

    async def drop(self, key: CacheKey) -> None:
        self.kept.pop(key.digest, None)


def boundary(catalogue: Catalogue, *route: Says, **given: Any) -> tuple[ModelBoundary, list[CallRecord]]:
    records: list[CallRecord] = []
    return ModelBoundary({"*": route}, catalogue, guard=guarded(), record=records.append, **given), records


async def test_the_routes_next_provider_is_asked_and_both_calls_are_recorded_and_paid(catalogue: Catalogue) -> None:
    first, second = Says("first", NO), Says("second", ELIGIBLE)
    asked, records = boundary(catalogue, first, second)
    assessment = await asked.decide(request(), 1)
    assert isinstance(assessment.verdict, GroundedDecision)
    assert assessment.first_call is not None
    assert assessment.first_exchange is not None
    assert assessment.first_exchange.answer == NO
    assert [(call.provider, call.status, call.failure) for call in records] == [
        ("first", "invalid_output", "contradicts_evidence"),
        ("second", "ok", None),
    ]
    assert sum(call.cost_usd or 0 for call in records) == 2 * Decimal("0.00098")


@pytest.mark.parametrize(
    "no",
    [
        '{"decision":"not_eligible","rotation_window_days":30,"source_line_ids":["P-7"],"quotes":[]}',
        '{"decision":"not_eligible","rotation_window_days":null,"source_line_ids":["P-7@1"],"quotes":[]}',
    ],
)
async def test_a_no_of_the_wrong_form_is_asked_once_more_too(catalogue: Catalogue, no: str) -> None:
    """The likely form of a wrong no repeats the policy's window."""
    first, second = Says("first", no), Says("second", ELIGIBLE)
    asked, records = boundary(catalogue, first, second)
    assert isinstance((await asked.decide(request(), 1)).verdict, GroundedDecision)
    assert [call.failure for call in records] == ["contradicts_evidence", None]


async def test_where_the_second_provider_answered_the_first_one_is_asked_again(catalogue: Catalogue) -> None:
    """The one that was away is the only other one."""
    first, second = Says("first", ProviderUnavailable("x"), ELIGIBLE), Says("second", NO)
    asked, _ = boundary(catalogue, first, second)
    assert isinstance((await asked.decide(request(), 1)).verdict, GroundedDecision)
    assert (first.calls, second.calls) == (2, 1)


@pytest.mark.parametrize(
    ("said", "reading"),
    [
        (LAZY, ("not_specified", "contradicts_evidence")),
        ("nonsense", (None, "malformed_answer")),
        (ELIGIBLE.replace("30", "90"), ("eligible", "unsupported_window")),
        (QuotaExhausted("x"), (None, "quota_exhausted")),
    ],
)
async def test_whatever_the_second_one_does_but_agree_a_person_decides(
    catalogue: Catalogue, said: str | BaseException, reading: tuple[str | None, str]
) -> None:
    """A due key never depends on whether the second provider is there."""
    asked, records = boundary(catalogue, Says("first", NO), Says("second", said))
    verdict = (await asked.decide(request(), 1)).verdict
    assert isinstance(verdict, Disagreement)
    assert [(one.provider, one.decision, one.reason) for one in verdict.readings] == [
        ("first", "not_eligible", "contradicts_evidence"),
        ("second", *reading),
    ]
    assert verdict.supported.needs_approval
    assert len(records) == 2


async def test_other_rejections_are_not_asked_again(catalogue: Catalogue) -> None:
    """Only a no to a key that is due: a wrong window is paid for once, as before."""
    only = Says("only", ELIGIBLE.replace("30", "90"))
    asked, _ = boundary(catalogue, only)
    assert isinstance((await asked.decide(request(), 1)).verdict, Rejection)
    assert only.calls == 1


async def test_a_cached_answer_that_is_refused_is_dropped_and_asked_anew(catalogue: Catalogue) -> None:
    """A gate that is stricter than when it was cached does not reject for ever."""
    cache, asked_about = Memory(), request()
    asked, _ = boundary(catalogue, Says("only", ELIGIBLE), cache=cache)
    await asked.decide(asked_about, 1)
    [digest] = cache.kept
    cache.kept[digest] = (
        cache.kept[digest]
        .replace('\\"eligible\\"', '\\"not_eligible\\"')
        .replace('\\"rotation_window_days\\":30', '\\"rotation_window_days\\":null')
    )
    only = Says("only", ELIGIBLE)
    asked, records = boundary(catalogue, only, cache=cache)
    assert isinstance((await asked.decide(asked_about, 1)).verdict, GroundedDecision)
    assert (only.calls, records[0].cache_hit) == (1, False)
    assert '\\"eligible\\"' in cache.kept[digest]


async def test_a_disagreement_is_never_answered_from_the_cache(catalogue: Catalogue) -> None:
    cache, only, asked_about = Memory(), Says("only", NO), request()
    asked, _ = boundary(catalogue, only, cache=cache)
    for calls in (2, 4):
        assert isinstance((await asked.decide(asked_about, 1)).verdict, Disagreement)
        assert (only.calls, cache.kept) == (calls, {})


async def test_by_rule_no_provider_is_asked_and_the_record_says_so(catalogue: Catalogue) -> None:
    only = Says("only", NO)
    asked, records = boundary(catalogue, only)
    verdict = (await asked.decide(request(decide_by="rule"), 1)).verdict
    assert isinstance(verdict, GroundedDecision)
    assert (verdict.decision, verdict.basis, only.calls) == ("eligible", "rule", 0)
    [record] = records
    assert (record.provider, record.model, record.cost_usd, record.status) == ("rule", "policy", Decimal(0), "ok")


async def test_by_rule_a_line_in_words_only_is_still_asked_about(catalogue: Catalogue) -> None:
    """Code cannot read it, and does not pretend to."""
    prose = catalogue.current("P-7").model_copy(update={"rule": InProse(when="prose"), "decide": "person"})
    held = Catalogue([prose])
    only = Says("only", LAZY)
    asked, _ = boundary(held, only)
    verdict = (await asked.decide(request(decide_by="rule"), 1)).verdict
    assert isinstance(verdict, GroundedDecision)
    assert (verdict.decision, only.calls) == ("not_specified", 1)


async def test_a_caller_that_holds_other_wording_is_told_by_name(catalogue: Catalogue) -> None:
    """The same version and another text: what the caller read is not what would be judged."""
    line = catalogue.current("P-7")
    only = Says("only", ELIGIBLE)
    asked, _ = boundary(catalogue, only)
    same = request(policy_digest=digest_of_lines([line]))
    assert isinstance((await asked.decide(same, 1)).verdict, GroundedDecision)
    other = request(policy_digest=digest_of_lines([line.model_copy(update={"wording": "Keys may rotate."})]))
    with pytest.raises(PolicyDiffers, match="P-7@1"):
        await asked.decide(other, 1)
    assert only.calls == 1


async def test_the_prompt_tells_facts_as_finely_as_they_are_judged(catalogue: Catalogue) -> None:
    """43 ms from an edge, a reader of the prompt can be right; and the prompt says what else a line asks for."""
    edge = timedelta(days=90)
    line = catalogue.current("AWS-FSBP-IAM.3")
    for step in (timedelta(0), timedelta(microseconds=1), timedelta(milliseconds=43)):
        key = facts(kind="access_key", age_days=None, last_rotated_at=NOW - edge - step)
        prompt = TASK.prompt(request(credential=key, policy_lines=(line.ref,)), [line])
        written = f'"age_seconds":{(edge + step).total_seconds():.6f}'.rstrip("0").rstrip(".")
        assert written in prompt.user
    assert '"approval":"none"' in prompt.user


def test_a_proposal_without_quotes_is_read_as_before() -> None:
    """Models and cached answers that know no quotes still answer."""
    assert ProposedDecision.model_validate_json(ELIGIBLE).quotes is None
