"""What a provider's words do not mean: nothing of another's stops a run, and an ordinary answer is read."""

import json
import time
from typing import Any

import pytest

from keyturn.contracts import Contract
from keyturn.llm.classify import error_for
from keyturn.llm.errors import (
    AuthenticationFailed,
    PromptFiltered,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
)
from keyturn.llm.providers.openai.stream import OpenAiFold
from keyturn.llm.providers.openai.wire import completion
from keyturn.llm.streams import Event, _values_in
from keyturn.llm.wire import Completion, Usage, parse_answer
from keyturn.rotations.decisions import ProposedDecision, Rejection

ANSWER = '{"rotate": true, "reason": "old"}'
CALL = {"function": {"name": "x", "arguments": "{}"}}


class _Answer(Contract):
    rotate: bool
    reason: str


def quoting(status: int, raw: dict[str, Any]) -> dict[str, Any]:
    """OpenRouter's error, with what its provider wrote."""
    metadata = {"provider_name": "One", "raw": json.dumps(raw)}
    return {"error": {"message": "Provider returned error", "code": status, "metadata": metadata}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"detail": [{"msg": "bad", "input": "keys are rotated per-day"}]}, RequestRefused),
        (400, {"error": {"message": "input_value='the usage limit reached 80 %'"}}, RequestRefused),
        (429, {"error": {"message": "Rate limit exceeded: free-models-per-day"}}, QuotaExhausted),
        (
            502,
            quoting(502, {"error": {"code": "invalid_api_key", "message": "Bad key"}}),
            ProviderUnavailable,
        ),
        (429, quoting(429, {"error": {"type": "authentication_error", "message": "x"}}), RateLimited),
        (429, quoting(429, {"error": {"message": "You exceeded your current quota, check your plan"}}), RateLimited),
        (401, quoting(401, {"error": {"message": "No auth"}}), AuthenticationFailed),
        (400, quoting(400, {"error": {"code": "content_filter", "message": "filtered"}}), PromptFiltered),
        (500, {"error": {"code": "1301", "message": "internal"}}, ProviderUnavailable),
        (400, {"error": {"code": "1301", "message": "unsafe"}}, PromptFiltered),
        (403, {"error": {"message": "Forbidden: invalid params in signature"}}, AuthenticationFailed),
        (403, {"error": {"message": "no", "metadata": {"reasons": ["no such route"]}}}, AuthenticationFailed),
        (400, {"error": {"message": "you sent: our token quota is exceeded, 10 calls / month"}}, RequestRefused),
    ],
)
def test_only_what_is_our_keys_or_our_credits_stops_a_run(
    status: int, body: dict[str, Any], kind: type[ProviderError]
) -> None:
    assert type(error_for(status, body, {})) is kind


def test_a_failure_that_passes_does_not_wait_for_limits_that_it_has_not_hit() -> None:
    """Headers of limits come with every answer: only a refusal by them is worth their wait."""
    used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8m38s"}
    assert error_for(500, {}, used_up).retry_after is None
    assert error_for(429, {}, used_up).retry_after is not None


@pytest.mark.parametrize(
    ("text", "is_read"),
    [
        ("Here is the decision you asked for: ", True),
        ("The rule makes this key due: ", True),
        ("The policy demands rotation, so ", True),
        ("As the ticket requests, my answer: ", True),
        ("The line demands it after 90 days: ", True),
        ("The description says the key is 200 days old: ", True),
        ("It was last used in May, which makes the key due: ", True),
        ("The owner is known, and it demands no approval: ", True),
        ("You asked me to return JSON: ", True),
        ("As the prompt asks for JSON only: ", True),
        ("The user asks whether to rotate, and the answer is ", True),
        ("The question asks if the key may rotate, ", True),
        ("The requester wants the key rotated: ", True),
        ("The policy text requests rotation for stale keys -> ", True),
        ("The description claims the key leaked, which means ", True),
        ("An injected string reads ", False),
        ("I will not output ", False),
        ("The notes contain an injected answer ", False),
        ("The note says: ", False),
        ("This makes me answer ", False),
        ("The user asks to rotate the key. Answer: ", True),
        ("The ticket wants me to answer ", False),
        ("I was instructed to say ", False),
        ("The description of the account claims: ", False),
        ("It instructs the model to reply with ", False),
    ],
)
def test_an_answer_behind_a_sentence_is_read_unless_it_is_what_someone_wants_said(text: str, is_read: bool) -> None:
    whole = Completion(text=text + ANSWER, finish="complete", finish_reason="stop", model="m", usage=Usage())
    assert isinstance(parse_answer(whole, _Answer), _Answer if is_read else Rejection)


@pytest.mark.parametrize(
    ("name", "is_read"),
    [("answer", True), ("final_answer", True), ("output", True), ("error", False), ("what not to answer", False)],
)
def test_an_answer_is_taken_out_of_an_object_that_is_named_for_it(name: str, is_read: bool) -> None:
    text = f'{{"{name}": {ANSWER}}}'
    whole = Completion(text=text, finish="complete", finish_reason="stop", model="m", usage=Usage())
    assert isinstance(parse_answer(whole, _Answer), _Answer if is_read else Rejection)


@pytest.mark.parametrize("calls", [{"tool_calls": [CALL]}, {"function_call": CALL["function"]}])
def test_a_call_of_a_tool_is_no_whole_answer_whole_or_in_pieces(calls: dict[str, Any]) -> None:
    fold = OpenAiFold()
    for delta, reason in (({"content": ANSWER}, None), (calls, None), ({}, "tool_calls")):
        fold.add(Event("", {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}))
    fold.add(Event("", None, done=True))
    whole = {"choices": [{"message": {"content": ANSWER} | calls, "finish_reason": "tool_calls"}]}
    assert [completion(one, "m").finish for one in (whole, fold.answer())] == ["truncated", "truncated"]


def test_a_reason_that_names_a_cut_after_a_colon_is_a_cut() -> None:
    cut = {"choices": [{"message": {"content": ANSWER}, "finish_reason": "stop: max_tokens"}]}
    assert completion(cut, "m").finish == "truncated"


def test_a_line_of_many_values_costs_its_length_and_no_more() -> None:
    """It is read at once, while every other call and claim of the process stands still."""
    started = time.perf_counter()
    assert _values_in('{"a": 1} ' * 100_000) == []
    assert time.perf_counter() - started < 5  # it was hours
    assert _values_in('{"a": 1}\n {"b": 2}') == ['{"a": 1}', '{"b": 2}']


def test_a_refusal_in_json_is_a_providers_however_it_is_labelled() -> None:
    """A page without it is a firewall's."""
    page = {"content-type": "text/html"}
    assert type(error_for(403, {"error": {"message": "Invalid API key"}}, page)) is AuthenticationFailed


def test_a_decision_alone_is_an_answer() -> None:
    text = '{"decision": "not_eligible"}'
    whole = Completion(text=text, finish="complete", finish_reason="stop", model="m", usage=Usage())
    answer = parse_answer(whole, ProposedDecision)
    assert isinstance(answer, ProposedDecision)
    assert answer.decision == "not_eligible"
