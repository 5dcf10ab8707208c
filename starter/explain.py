"""`keyturn explain`: from a rotation's own history, what was asked, what came back, and why it was accepted or not.

Nothing is asked, looked up or judged again: what is printed was recorded then, whatever prompts, policies and models
are today. It takes the keys that encrypted the history.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from keyturn.application.outcomes import days_in_words, fate_of
from keyturn.application.stories import Step, story_of
from keyturn.console import printable
from keyturn.moments import in_utc


@click.command()
@click.argument("workflow_id")
@click.option("--run-id", help="Run ID of the workflow.  [default: the last run]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def explain(workflow_id: str, run_id: str | None, as_json: bool) -> None:
    """Show from the record the question, the answer, its prompt, policy and model, and the reason for the outcome.

    It prints questions and answers, which are encrypted everywhere else: mind who sees the screen.

    \b
    Example:
      keyturn explain rotate:default:acct_10234:key_01:P-7@1
    """
    from keyturn.application.connection import connect, map_refusals

    async def run() -> tuple[str, list[Step]]:
        with map_refusals():
            return await story_of(await connect(), workflow_id, run_id)

    stored, steps = asyncio.run(run())
    if as_json:
        click.echo(json.dumps({"workflow_id": stored, "steps": steps}))
        return
    click.echo(f"workflow {stored}")
    for step in steps:
        click.echo("\n".join(map(printable, story_lines(step))))


def story_lines(step: Step) -> list[str]:
    """Return the lines that show a step."""
    fields = {
        "asked": _request_lines,
        "decided": _decision_lines,
        "job": _job,
        "failed": _failure_lines,
        "word": _response_lines,
        "ended": _end_lines,
    }
    first, *others = fields[step["step"]](step)
    return [f"\n{in_utc(step['at'])}  {first}", *(f"  {line}" for line in others)]


def _request_lines(step: Step) -> list[str]:
    request = step["request"]
    facts = {name: value for name, value in request["credential"].items() if value not in (None, False)}
    lines = ", ".join(f"{line['id']}@{line['version']}" for line in request["policy_lines"])
    return [
        f"asked by {request['user_id']} for {request['tenant_id']}, trace {request['trace_id']}",
        f"question  {request['question']}",
        f"account   {request['account_id']}",
        f"evidence  {', '.join(f'{name}={value}' for name, value in facts.items())}",
        f"under     {lines}",
    ]


def _decision_lines(step: Step) -> list[str]:
    call, verdict, exchange = step["call"], step["verdict"], step["exchange"]
    kept = ", a cached response" if call["cache_hit"] else ""
    cost = "price unknown" if call["cost_usd"] is None else f"${call['cost_usd']}"
    lines = [f"decide: {call['provider']} {call['model']} answered{kept}", *_tries(step)]
    lines += [f"skipped   {one['provider']} {one['model']}: {one['failure']}" for one in call["passed_over"]]
    lines += [
        f"prompt    {call['prompt_version']}, catalogue {step['catalogue_version']}",
        f"took      {call['latency_ms']:.0f} ms, {call['input_tokens']} tokens in, {call['output_tokens']} out, {cost}",
        f"all calls of this question: keyturn calls --trace-id {call['trace_id']}",
    ]
    if step["first_call"] is not None:
        first, before = step["first_call"], step["first_exchange"] or {"answer": ""}
        lines.append(f"before    {first['provider']} {first['model']} contradicted the evidence: {before['answer']}")
    if exchange is not None:
        for name in ("instructions", "document", "answer"):
            lines += [f"--- {name} ---", *exchange[name].splitlines()]
        lines.append("---")
    if verdict["verdict"] == "rejected":
        return [*lines, f"rejected, {verdict['reason']}: {verdict['explanation']}"]
    if verdict["verdict"] == "disagreement":
        said = [
            f"by model  {one['provider']} {one['model']}: {one['decision'] or 'no decision'} ({one['reason']})"
            for one in verdict["readings"]
        ]
        return [*lines, "disagreement: the key is due by rule, and the model says otherwise", *said,
                *_support_lines("by rule   ", verdict["supported"])]  # fmt: skip
    return [*lines, *_support_lines("accepted: ", verdict)]


def _support_lines(label: str, decision: Mapping[str, Any]) -> list[str]:
    bears = ", ".join(f"{line['id']}@{line['version']}" for line in decision["source_lines"]) or "no line"
    cited = ", ".join(f"{line['id']}@{line['version']}" for line in decision["cited_lines"]) or "none"
    window = f", window {days_in_words(decision['rotation_window_days'])}" if decision["rotation_window_days"] else ""
    return [
        f"{label}{decision['decision']} under {bears}{window}, by {decision['basis'].replace('_', ' ')}",
        f"because   {decision['explanation']}",
        f"cited     {cited}",
        *(f"quoted    {one['line_id']}: {one['wording']!r}, as {one['evidence']!r}" for one in decision["quotes"]),
        f"digest    {decision['digest']}",
    ]


def _tries(step: Step) -> Sequence[str]:
    if step["attempts"] == 1:
        return []
    before = step["attempt_before"]
    return [f"attempts  {step['attempts']}; the previous one failed as {before['kind']}: {before['message']}"]


def _job(step: Step) -> list[str]:
    return [f"job {step['job_id']} {fate_of(created=step['created'], tightened=step['tightened'])}", *_tries(step)]


def _failure_lines(step: Step) -> list[str]:
    return [f"{step['activity']} failed, {step['kind']}: {step['message']}", *_tries(step)]


def _response_lines(step: Step) -> list[str]:
    said = step["said"] if isinstance(step["said"], dict) else {}
    shown = {name: value for name, value in said.items() if name in {"operator", "approver", "reason", "digest"}}
    return [f"{step['name']}  " + "  ".join(f"{name}={value}" for name, value in shown.items())]


def _end_lines(step: Step) -> list[str]:
    return ["outcome: " + ", ".join(str(step[name]) for name in ("status", "reason", "explanation") if step.get(name))]
