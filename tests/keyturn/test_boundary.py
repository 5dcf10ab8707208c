"""The boundary: every call ends in one judged answer or one named error, and in exactly one record."""

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from keyturn.call_errors import ContextWindowExceeded, CostCapExceeded
from keyturn.calls import CallRecord
from keyturn.errors import KeyturnError
from keyturn.ledger.records import keyed_fingerprint
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.errors import (
    AuthenticationFailed,
    ProviderOverloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UnreadableResponse,
)
from keyturn.llm.wire import Completion, OnText, Usage
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.errors import UnknownPolicyLine
from keyturn.rotations.decisions import GroundedDecision, Rejection
from keyturn.tasks.definition import Prompt
from keyturn.tasks.errors import UnknownPromptVersion, UnknownTask
from tests.support.boundaries import FixedPrice, guarded
from tests.support.cases import QUESTION, request

ELIGIBLE = '{"decision":"eligible","rotation_window_days":30,"source_line_ids":["P-7"]}'


class Scripted:
    """A provider that returns or raises what it was given, and counts how often it was asked."""

    model = "m-1"
    passes_quota_on = False

    def __init__(self, said: str | BaseException, name: str = "scripted", *, takes: float = 0.0) -> None:
        self._said = said
        self._takes = takes
        self.name = name
        self.asked: list[Timeouts] = []

    async def complete(
        self, prompt: Prompt, *, timeouts: Timeouts, trace_id: str, on_text: OnText | None = None
    ) -> Completion:
        self.asked.append(timeouts)
        if self._takes:
            try:
                async with asyncio.timeout(timeouts.first_byte):
                    await asyncio.sleep(self._takes)
            except TimeoutError:
                raise ProviderTimeout("nothing of an answer in time") from None
        if isinstance(self._said, BaseException):
            raise self._said
        return Completion(self._said, "complete", "stop", "m-1-2026", Usage(250, 80, 100), "req_1", 3.0)


async def called(
    catalogue: Catalogue,
    said: str | BaseException | Sequence[Scripted],
    boundary: dict[str, Any] | None = None,
    **changed: Any,
) -> tuple[Any, list[CallRecord]]:
    """Ask once; returns the verdict or the error, and the records."""
    records: list[CallRecord] = []
    route = [Scripted(said)] if isinstance(said, str | BaseException) else said
    given: dict[str, Any] = {"guard": guarded(), "record": records.append} | (boundary or {})
    asked = ModelBoundary({"*": route}, catalogue, **given)
    try:
        return (await asked.decide(request(**changed), 2)).verdict, records
    except (KeyturnError, RuntimeError, asyncio.CancelledError) as error:
        return error, records


async def test_a_sound_answer_is_recorded_as_ok(catalogue: Catalogue) -> None:
    """The record joins who asked, what was asked of whom, and what it took."""
    verdict, [record] = await called(catalogue, ELIGIBLE)
    assert isinstance(verdict, GroundedDecision)
    assert (record.status, record.failure, record.attempt) == ("ok", None, 2)
    assert (record.provider, record.asked_model, record.model) == ("scripted", "m-1", "m-1-2026")
    assert (record.input_tokens, record.cached_tokens, record.output_tokens) == (250, 100, 80)
    assert (record.cost_usd, record.cache_hit, record.first_byte_ms) == (Decimal("0.00098"), False, 3.0)
    assert (record.trace_id, record.request_id) == ("trace_acct_10234_01", "req_1")
    assert (record.prompt_version, record.catalogue_version) == ("rotation_decision@2", catalogue.version)
    assert record.fingerprint is None


@pytest.mark.parametrize(
    ("said", "status", "failure"),
    [
        (ELIGIBLE.replace("30", "90"), "invalid_output", "unsupported_window"),
        ("nonsense", "invalid_output", "malformed_answer"),
        (ProviderTimeout("t"), "timeout", "provider_timeout"),
        (ProviderUnavailable("u"), "failed", "provider_unavailable"),
        (QuotaExhausted("q"), "failed", "quota_exhausted"),
        (RuntimeError("bug"), "failed", "unforeseen"),
        (asyncio.CancelledError(), "cancelled", None),
    ],
)
async def test_every_end_of_a_call_is_recorded_once(
    catalogue: Catalogue, said: str | BaseException, status: str, failure: str | None
) -> None:
    """Also an error, a timeout and a cancellation leave one record, and no text of the question in it."""
    ended, [record] = await called(catalogue, said)
    assert (record.status, record.failure) == (status, failure)
    assert isinstance(ended, Rejection) or ended is said
    assert QUESTION not in record.model_dump_json()


async def test_what_this_worker_does_not_hold_is_refused_before_anybody_is_asked(catalogue: Catalogue) -> None:
    """An unknown prompt version, policy line or task; the refusals of a known task are recorded too."""
    provider = Scripted(ELIGIBLE)
    ended, [record] = await called(catalogue, [provider], prompt_version="rotation_decision@99")
    assert isinstance(ended, UnknownPromptVersion)
    assert "rotation_decision@2" in str(ended)
    assert (record.status, record.failure) == ("failed", "unknown_prompt_version")
    ended, [record] = await called(catalogue, [provider], policy_lines=({"id": "P-7", "version": 2},))
    assert isinstance(ended, UnknownPolicyLine)
    assert record.failure == "unknown_policy_line"
    ended, _ = await called(catalogue, [provider], {"tasks": {}})
    assert isinstance(ended, UnknownTask)
    assert provider.asked == []


@pytest.mark.parametrize(
    "error", [ProviderUnavailable("u"), ProviderOverloaded("o"), RateLimited("r"), ProviderTimeout("t")]
)
async def test_the_next_provider_is_asked_when_the_first_is_away(catalogue: Catalogue, error: KeyturnError) -> None:
    """Once each; the record says who answered and why the other did not."""
    first, second = Scripted(error, "first"), Scripted(ELIGIBLE, "second")
    verdict, [record] = await called(catalogue, [first, second])
    assert isinstance(verdict, GroundedDecision)
    assert (record.status, record.provider) == ("ok", "second")
    assert [(passed.provider, passed.failure) for passed in record.passed_over] == [("first", error.kind)]
    assert (len(first.asked), len(second.asked)) == (1, 1)


@pytest.mark.parametrize(
    "said",
    [
        QuotaExhausted("q"),
        AuthenticationFailed("a"),
        RequestRefused("r"),
        UnreadableResponse("u"),
        "nonsense",
        ELIGIBLE.replace("30", "90"),
    ],
)
async def test_what_a_person_must_mend_is_not_hidden_behind_the_next_provider(
    catalogue: Catalogue, said: str | KeyturnError
) -> None:
    """No fallback on an invalid answer, an exhausted quota, a wrong key or a wrong request."""
    second = Scripted(ELIGIBLE, "second")
    ended, [record] = await called(catalogue, [Scripted(said, "first"), second])
    assert second.asked == []
    assert record.provider == "first"
    assert isinstance(ended, Rejection) or ended is said


async def test_when_nobody_answers_the_first_error_counts_and_all_are_reported(catalogue: Catalogue) -> None:
    """The last error must not hide the real one."""
    wait = timedelta(seconds=9)
    first = Scripted(ProviderUnavailable("answered 503", retry_after=wait), "first")
    ended, [record] = await called(catalogue, [first, Scripted(AuthenticationFailed("answered 401"), "second")])
    assert type(ended) is ProviderUnavailable
    assert str(ended) == "first: answered 503; second: answered 401"
    assert ended.retry_after == wait
    assert (record.provider, record.failure) == ("first", "provider_unavailable")
    assert [(passed.provider, passed.failure) for passed in record.passed_over] == [
        ("first", "provider_unavailable"),
        ("second", "authentication_failed"),
    ]


async def test_the_deadline_is_one_for_all_providers_together(catalogue: Catalogue) -> None:
    """A silent first provider leaves the second its share, and the whole ends within the budget."""
    first, second = Scripted(ELIGIBLE, "first", takes=30), Scripted(ELIGIBLE, "second")
    began = time.monotonic()
    verdict, [record] = await called(catalogue, [first, second], timeout_seconds=2.0)
    assert isinstance(verdict, GroundedDecision)
    assert record.provider == "second"
    assert time.monotonic() - began < 2.0
    [of_first], [of_second] = first.asked, second.asked
    assert of_first.first_byte == pytest.approx(1.2, abs=0.05)
    assert of_second.total == pytest.approx(0.8, abs=0.1)
    assert of_second.first_byte == of_second.total
    ended, [record] = await called(catalogue, [first, Scripted(ELIGIBLE, "second", takes=30)], timeout_seconds=1.5)
    assert isinstance(ended, ProviderTimeout)
    assert record.status == "timeout"
    assert record.latency_ms < 2_000


async def test_a_call_above_the_cap_is_refused_with_its_numbers(catalogue: Catalogue) -> None:
    """The task's own cap, the setting's, and what the user has spent today: no provider is asked, nothing is spent."""
    provider = Scripted(ELIGIBLE)
    dear = guarded(prices=FixedPrice(Decimal("0.30")))
    ended, [record] = await called(catalogue, [provider], {"guard": dear})
    assert isinstance(ended, CostCapExceeded)
    assert str(ended) == "the call may cost up to $0.3000, and the task decide_rotation allows $0.2500"
    assert (record.failure, record.cost_usd) == ("cost_cap_exceeded", None)
    capped = guarded(usd_per_call=Decimal("0.0005"))
    ended, _ = await called(catalogue, [provider], {"guard": capped})
    assert "KEYTURN_USD_PER_CALL allows $0.0005" in str(ended)

    async def spent(tenant: str, user: str) -> Decimal:
        return Decimal("0.9995") if (tenant, user) == ("default", "luna") else Decimal(0)

    daily = guarded(usd_per_user_day=Decimal(1), spent_today=spent)
    ended, _ = await called(catalogue, [provider], {"guard": daily}, user_id="luna")
    assert isinstance(ended, CostCapExceeded)
    assert "the user has spent $0.9995 today" in str(ended)
    assert provider.asked == []
    ended, _ = await called(catalogue, [provider], {"guard": daily}, user_id="noor")
    assert isinstance(ended, GroundedDecision)


async def test_an_unknown_price_is_no_reason_to_refuse_and_is_recorded_as_unknown(catalogue: Catalogue) -> None:
    """Local models have no price, which is not a price of 0."""
    verdict, [record] = await called(catalogue, ELIGIBLE, {"guard": guarded(prices=FixedPrice(None))})
    assert isinstance(verdict, GroundedDecision)
    assert record.cost_usd is None


async def test_a_call_that_would_not_fit_into_the_model_is_refused_with_its_numbers(catalogue: Catalogue) -> None:
    """Input and the longest output together."""
    provider = Scripted(ELIGIBLE)
    small = guarded(prices=FixedPrice(window=2_500))
    ended, _ = await called(catalogue, [provider], {"guard": small}, question="why? " * 700)
    assert isinstance(ended, ContextWindowExceeded)
    assert "2,000 of output do not fit into m-1's 2,500" in str(ended)
    assert provider.asked == []


async def test_the_fingerprint_is_keyed_and_the_same_for_the_same_input(catalogue: Catalogue) -> None:
    """Without the key, no one can try out which question it stands for."""
    asked = request()
    fields = asked.model_dump()
    prints = []
    for key in (b"one", b"one", b"two"):
        _, [record] = await called(catalogue, ELIGIBLE, {"fingerprint": keyed_fingerprint(key)}, **fields)
        prints.append(record.fingerprint)
    assert prints[0] == prints[1] != prints[2]
    assert prints[0] is not None
    assert len(prints[0]) == 64


async def test_calls_at_once_do_not_pass_the_users_day_together(catalogue: Catalogue) -> None:
    """What is under way counts, although its row is not written yet; what has ended is the ledger's."""

    async def spent(tenant: str, user: str) -> Decimal:
        await asyncio.sleep(0)
        return Decimal(0)

    guard = guarded(prices=FixedPrice(Decimal("0.02")), usd_per_user_day=Decimal("0.05"), spent_today=spent)
    slow = Scripted(ELIGIBLE, takes=0.2)
    ends = await asyncio.gather(*(called(catalogue, [slow], {"guard": guard}) for _ in range(10)))
    assert sum(isinstance(ended, GroundedDecision) for ended, _ in ends) == 2
    assert sum(isinstance(ended, CostCapExceeded) for ended, _ in ends) == 8
    assert guard.in_flight == {}


async def test_what_no_check_foresaw_is_still_a_named_rejection(catalogue: Catalogue) -> None:
    """A validation error of the task's own answer is the model's fault, and not an unforeseen end."""
    from dataclasses import replace

    from keyturn.contracts import PolicyRef
    from keyturn.tasks.decide_rotation import TASK

    def judge(*_: Any) -> Any:
        return PolicyRef.model_validate({"id": "", "version": 0})

    verdict, [record] = await called(catalogue, ELIGIBLE, {"tasks": {"decide_rotation": replace(TASK, judge=judge)}})
    assert isinstance(verdict, Rejection)
    assert record.failure == "malformed_answer"


async def test_the_next_provider_is_not_asked_in_vain(catalogue: Catalogue) -> None:
    """With less than half a second left no provider can answer: the call ends by the first one's name."""
    second = Scripted(ELIGIBLE, "second")
    ended, [record] = await called(catalogue, [Scripted(ELIGIBLE, "first", takes=30), second], timeout_seconds=1.1)
    assert isinstance(ended, ProviderTimeout)
    assert second.asked == []
    assert (record.provider, record.passed_over) == ("first", ())
