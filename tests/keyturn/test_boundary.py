"""The boundary: every call ends in one judged answer or one named error, and in exactly one record."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from keyturn.contracts import CallRecord, GroundedDecision, Rejection
from keyturn.errors import (
    KeyturnError,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    UnknownPolicyLine,
    UnknownPromptVersion,
)
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.prompt import Prompt
from keyturn.llm.wire import Completion
from keyturn.policy.catalogue import Catalogue
from tests.cases import QUESTION, request

ELIGIBLE = '{"decision":"eligible","rotation_window_days":30,"source_line_ids":["P-7"]}'


class Scripted:
    """A provider that says or raises what it was told."""

    name = "scripted"
    model = "m-1"

    def __init__(self, said: str | BaseException) -> None:
        self._said = said

    async def complete(self, prompt: Prompt, *, timeout_seconds: float, trace_id: str) -> Completion:
        if isinstance(self._said, BaseException):
            raise self._said
        return Completion(self._said, "complete", "stop", "m-1-2026", 250, 80)


async def called(catalogue: Catalogue, said: str | BaseException, **changed: Any) -> tuple[Any, list[CallRecord]]:
    records: list[CallRecord] = []
    boundary = ModelBoundary(Scripted(said), catalogue, record=records.append, price=lambda *_: Decimal("0.00098"))
    try:
        return (await boundary.decide(request(**changed), 2)).verdict, records
    except (KeyturnError, RuntimeError, asyncio.CancelledError) as error:
        return error, records


async def test_a_sound_answer_is_recorded_as_ok(catalogue: Catalogue) -> None:
    """The record joins trace, prompt, model, tokens and cost."""
    verdict, [record] = await called(catalogue, ELIGIBLE)
    assert isinstance(verdict, GroundedDecision)
    assert (record.status, record.failure, record.model, record.attempt) == ("ok", None, "m-1-2026", 2)
    assert (record.input_tokens, record.output_tokens, record.cost_usd) == (250, 80, Decimal("0.00098"))
    assert (record.trace_id, record.prompt_version) == ("trace_acct_10234_01", "rotation_decision@1")


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


async def test_an_unknown_prompt_or_policy_version_asks_nobody(catalogue: Catalogue) -> None:
    """A request that this worker cannot put is refused before any call, so there is no record of one."""
    ended, records = await called(catalogue, ELIGIBLE, prompt_version="rotation_decision@99")
    assert isinstance(ended, UnknownPromptVersion)
    assert "rotation_decision@1" in str(ended)
    assert records == []
    ended, records = await called(catalogue, ELIGIBLE, policy_lines=({"id": "P-7", "version": 2},))
    assert isinstance(ended, UnknownPolicyLine)
    assert records == []
