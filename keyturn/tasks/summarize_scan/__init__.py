"""`summarize_scan`: what a person should know of one account's audit-log scan. Each record named is in the scan."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from pydantic import Field, JsonValue

from keyturn.contracts import AccountId, Contract, ModelTask, ShortIdentifier
from keyturn.policy.line import PolicyLine
from keyturn.rotations.decisions import Rejection
from keyturn.tasks.definition import Section, Task, answer_schema, policy_section, prompts_beside

MAX_SUMMARY_CHARACTERS = 800  # about eight lines: what a reviewer reads of one account
MAX_RECORDS = 200  # with 500 characters each, some 40,000 tokens: inside every current model's window


class ScanRecord(Contract):
    """One record of a scan, as the scanner wrote it. Its text is data from outside."""

    record_id: ShortIdentifier
    text: str = Field(min_length=1, max_length=500)


class ScanRequest(ModelTask):
    """The records of one account's scan."""

    task: Literal["summarize_scan"] = "summarize_scan"
    account_id: AccountId
    records: tuple[ScanRecord, ...] = Field(min_length=1, max_length=MAX_RECORDS)
    prompt_version: ShortIdentifier = "scan_summary@1"
    # Nightly work without a user who waits: 90 s lets a long scan be read; a retry costs more than a longer wait.
    timeout_seconds: float = Field(default=90.0, gt=0, le=120)


class ProposedScanSummary(Contract):
    """What a model said, unchecked."""

    summary: JsonValue
    record_ids: JsonValue
    needs_attention: JsonValue


class ScanSummary(Contract):
    """A checked summary. `record_ids` are records of this scan that bear it."""

    summary: str = Field(min_length=1, max_length=MAX_SUMMARY_CHARACTERS)
    record_ids: tuple[ShortIdentifier, ...] = Field(min_length=1, max_length=MAX_RECORDS)
    needs_attention: bool


def judge(
    proposed: ProposedScanSummary, request: ScanRequest, _lines: Sequence[PolicyLine], _at: datetime | None = None
) -> ScanSummary | Rejection:
    """Return the summary if each record it names is in the scan and its text is fit to be shown."""
    from keyturn.tasks import wording  # its patterns take 60 ms to compile: not at a worker's start

    summary, ids = wording.fit_text(proposed.summary, MAX_SUMMARY_CHARACTERS), proposed.record_ids
    if isinstance(summary, Rejection):
        return summary
    # Who used a key, where and from where, is what a summary of an audit log says. Numbers are IDs there, and that
    # somebody was asked for a password is what a person should know.
    given = " ".join([request.account_id, *(record.text for record in request.records)])
    elsewhere = wording.leads_elsewhere(wording.without_names(summary, given))
    if elsewhere in {"hidden_characters", "holds_link", "holds_markup"}:
        return Rejection(reason=elsewhere, explanation=wording.ELSEWHERE[elsewhere])
    if not isinstance(proposed.needs_attention, bool):
        return Rejection(reason="malformed_answer", explanation="The flag is neither true nor false.")
    if not isinstance(ids, list) or not ids:
        return Rejection(reason="missing_source", explanation="The summary names no record of the scan.")
    known = {record.record_id for record in request.records}
    named = [record_id for record_id in ids if isinstance(record_id, str) and record_id in known]
    if len(named) != len(ids):
        return Rejection(reason="unknown_source", explanation="The summary names a record that is not in the scan.")
    return ScanSummary(summary=summary, record_ids=tuple(sorted(set(named))), needs_attention=proposed.needs_attention)


def _varying(request: ScanRequest, _lines: Sequence[PolicyLine], _at: datetime | None) -> list[Section]:
    records: list[JsonValue] = [{"record_id": record.record_id, "text": record.text} for record in request.records]
    return [("account_id", request.account_id), ("records", records)]


TASK: Task[ScanRequest, ProposedScanSummary, ScanSummary] = Task(
    name="summarize_scan",
    request=ScanRequest,
    proposal=ProposedScanSummary,
    answer=ScanSummary,
    schema=answer_schema(
        summary={"type": "string"},
        record_ids={"type": "array", "items": {"type": "string"}},
        needs_attention={"type": "boolean"},
    ),
    stable=policy_section,
    varying=_varying,
    judge=judge,
    max_output_tokens=3_000,  # 800 characters, up to 200 ids, and what a model thinks before them
    max_cost_usd=Decimal("0.50"),  # 40,000 tokens at 10 dollars a million, and some more
    cache_for=timedelta(days=7),  # a nightly run that is killed and run again within the week pays once
    prompts=prompts_beside(__file__),
)
