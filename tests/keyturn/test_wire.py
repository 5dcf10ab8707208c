"""What a model wrote is read strictly, and never raises."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.llm.wire import Completion, Finish, Usage, parse_answer
from keyturn.rotations.decisions import ProposedDecision, Rejection

GOOD = '{"decision":"eligible","rotation_window_days":30,"source_line_ids":["P-7"]}'


def answered(text: str, finish: Finish = "complete") -> Completion:
    return Completion(text, finish, "stop", "m", Usage(1, 1))


def test_a_sound_answer_is_read_field_by_field() -> None:
    """Reading judges nothing: that is grounding's work."""
    proposed = parse_answer(answered(GOOD), ProposedDecision)
    assert proposed == ProposedDecision(decision="eligible", rotation_window_days=30, source_line_ids=["P-7"])


@pytest.mark.parametrize(
    "text",
    [
        GOOD + GOOD,
        f"{GOOD}\n{GOOD}",
        f"[{GOOD}]",
        f'{{"answer": {GOOD}}}',
        f"The answer is {GOOD}.",
        f"Here it is: `{GOOD}`\nIt follows from P-7.",
        GOOD.replace('"eligible",', '"eligible" ,'),
    ],
)
def test_the_same_answer_twice_or_wrapped_is_that_answer(text: str) -> None:
    assert parse_answer(answered(text), ProposedDecision) == parse_answer(answered(GOOD), ProposedDecision)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Certainly! The key is eligible.",
        GOOD[:-1],
        f"[{GOOD}, {GOOD.replace('30', '90')}]",
        "null",
        '{"rotation_window_days":30}',
        f"{GOOD}\n{GOOD.replace('30', 'true')}",
        f"Either {GOOD} or {GOOD.replace('30', '90')}",
        f"I cannot comply. The question wants me to answer {GOOD}. I give no answer.",
        f"<think>{GOOD}</think> I cannot say.",
        GOOD.replace("}", ',"decision":"not_eligible"}'),
        GOOD.replace("30", "NaN"),
        GOOD.replace("30", "Infinity"),
        "[" * 100_000,
        GOOD.replace("30", "9" * 5_000),
    ],
)
def test_anything_else_is_malformed(text: str) -> None:
    """Prose, halves, two answers, doubled keys and numbers that are none: refused by one name."""
    rejection = parse_answer(answered(text), ProposedDecision)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == "malformed_answer"


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{GOOD}\n```",
        f"Here is my decision:\n{GOOD}\nI hope that helps.",
        f"<think>Is it {{stale}}? Perhaps {GOOD.replace('30', '90')}</think>\n{GOOD}",
        f"it seems so, {GOOD.replace('30', '90')} or not</think>{GOOD}",
        GOOD.replace("}", ',"approve":true,"explanation":"It is {stale}."}'),
        f"\ufeff{GOOD}",
        f"{{}} {GOOD}",
    ],
)
def test_the_one_object_of_the_right_form_is_the_answer_whatever_stands_around_it(text: str) -> None:
    """Each was paid for: a fence, a greeting, thoughts, or a field more changes nothing of what it says."""
    assert parse_answer(answered(text), ProposedDecision) == parse_answer(answered(GOOD), ProposedDecision)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("truncated", "truncated_answer"), ("refused", "model_refused"), ("filtered", "content_filtered")],
)
def test_an_answer_that_was_cut_off_is_not_read_even_if_it_parses(finish: Finish, reason: str) -> None:
    """How an answer ended comes before what it says."""
    rejection = parse_answer(answered(GOOD, finish), ProposedDecision)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason


@pytest.mark.parametrize("mark", ["<think>", "</think>", "<think></think>", "<reasoning>x"])
def test_thoughts_are_left_out_in_time_in_proportion_to_the_text(mark: str) -> None:
    """A pattern that looks for each mark's end took minutes for a mebibyte of them."""
    began = time.process_time()
    parse_answer(answered(mark * (1_000_000 // len(mark)) + GOOD), ProposedDecision)
    assert time.process_time() - began < 5


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(str))
def test_no_text_raises(text: str) -> None:
    """A model can write anything."""
    assert isinstance(parse_answer(answered(text), ProposedDecision), ProposedDecision | Rejection)


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>analysis<|message|>Is it shared?<|end|><|start|>assistant"
        "<|channel|>final<|message|>It is stale.<|return|>",
        "[THINK]Is it shared?[/THINK]It is stale.",
        "\u25c1think\u25b7Is it shared?\u25c1/think\u25b7It is stale.",
        "<|START_THINKING|>Is it shared?<|END_THINKING|>It is stale.",
        "<thought>Is it shared?</thought>It is stale.",
        "<seed:think>Is it shared?</seed:think>It is stale.",
        "It is stale.<|eot_id|>",
        "It is stale.<|im_end|>\n<|endoftext|>\n",
    ],
)
def test_thoughts_and_marks_of_templates_are_no_part_of_a_text(text: str) -> None:
    """As models write them behind servers that do not take them away; a decision is read behind them, too."""
    said = parse_answer(answered(text), None)
    assert isinstance(said, str)
    assert said.strip() == "It is stale."
    assert parse_answer(answered(text.replace("It is stale.", GOOD)), ProposedDecision) == ProposedDecision(
        decision="eligible", rotation_window_days=30, source_line_ids=["P-7"]
    )


@pytest.mark.parametrize("text", ["It is<|im_start|>user\nstale.", "<|channel|>analysis<|message|>Is it shared?"])
def test_a_text_with_a_templates_marks_left_in_it_is_refused(text: str) -> None:
    said = parse_answer(answered(text), None)
    assert isinstance(said, Rejection)
    assert said.reason == "malformed_answer"


def test_marks_cost_no_more_than_their_length() -> None:
    """Of a megabyte, each of them without an end."""
    for text in ("<|channel|>" * 90_000, " <|end|>" * 120_000, "[THINK]" * 140_000, "\n" * 1_000_000):
        began = time.process_time()
        parse_answer(answered(text), None)
        assert time.process_time() - began < 5
