"""`draft_reply`: a draft of the answer to the asker, in plain text. A person sends it; it authorizes nothing."""

import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime, Field, JsonValue, field_validator

from keyturn.contracts import MAX_QUESTION_CHARACTERS, AccountId, Contract, Decision, ModelTask, ShortIdentifier
from keyturn.policy.line import PolicyLine
from keyturn.private_data import SHORTEST_ID, holds_private_data
from keyturn.rotations.decisions import Rejection
from keyturn.tasks.definition import Section, Task, policy_section, prompts_beside

MAX_DRAFT_CHARACTERS = 2_000  # a reply that a support agent reads through before sending it


class DraftRequest(ModelTask):
    """The asker's words, and the grounded decision to report, if there is one."""

    task: Literal["draft_reply"] = "draft_reply"
    account_id: AccountId
    question: str = Field(min_length=1, max_length=MAX_QUESTION_CHARACTERS)
    decision: Decision | None = None
    rotation_window_days: int | None = Field(default=None, ge=1, le=36_500)
    # By when a key that is due must be rotated: for a line that is passed long since, its window says nothing of that.
    rotate_by: AwareDatetime | None = None
    # The rotation waits for a person's decision: the reply says so, and reports no decision.
    waits_for_person: bool = False
    prompt_version: ShortIdentifier = "reply_draft@3"
    # A chat reply: users leave after about half a minute; a stream shows its first words long before.
    timeout_seconds: float = Field(default=30.0, gt=0, le=120)

    @field_validator("question")
    @classmethod
    def _holds_nothing_private(cls, question: str) -> str:
        # A rotation's question may name its own key, which is left out here.
        if holds_private_data(question, allow_key_ids=True):
            raise ValueError("holds what looks like a secret or a card number: leave it out")
        return question


class Draft(Contract):
    """A checked draft. It stays a draft: nothing reads it as an order."""

    text: str = Field(min_length=1, max_length=MAX_DRAFT_CHARACTERS)


def judge(
    proposed: str, request: DraftRequest, lines: Sequence[PolicyLine], at: datetime | None = None
) -> Draft | Rejection:
    """Return the draft if it promises nothing, has nothing private, and names no line or figure but the policy's."""
    from keyturn.tasks import wording  # its patterns take 60 ms to compile: not at a worker's start

    text = wording.fit_text(proposed, MAX_DRAFT_CHARACTERS)
    if isinstance(text, Rejection):
        return text
    return _fault_of(text, request, lines, at) or Draft(text=text)


def _fault_of(text: str, request: DraftRequest, lines: Sequence[PolicyLine], at: datetime | None) -> Rejection | None:
    """Why a text that may be shown is not the reply to this request; None if it is."""
    from keyturn.tasks import (  # their patterns take 60 ms to compile: not at a worker's start
        draft_claims,
        line_claims,
        wording,
    )

    # A service account's own name may look like a mail address; the policy's wording may have a link. Nothing else may.
    of_this_key = line_claims.without_lines(text, lines)
    elsewhere = wording.leads_elsewhere(_without_account(of_this_key, request.account_id))
    if elsewhere is not None:
        return Rejection(reason=elsewhere, explanation=wording.ELSEWHERE[elsewhere])
    if request.waits_for_person and not _WAITS.search(text):
        return Rejection(reason="omits_waiting", explanation="The draft does not say that a person must approve first.")
    # What a line says of keys is not said of this one.
    spoken = re.sub(rf"(?<![\w.@/-]){re.escape(request.account_id)}(?![\w@/-]|\.\w)", "this account", of_this_key)
    states = request.waits_for_person and draft_claims.states_decision(spoken)
    if states or draft_claims.contradicts(spoken, request.decision):
        return Rejection(
            reason="decision_not_allowed", explanation="The draft states another decision than the recorded one."
        )
    if line_claims.names_other_lines(text, lines, request.account_id):
        return Rejection(reason="unknown_source", explanation="The draft names a policy line that was not given.")
    if draft_claims.names_other_figures(text, of_this_key, request.rotation_window_days, request.rotate_by, lines, at):
        return Rejection(
            reason="unsupported_figure",
            explanation="The draft states a number of days, or a date, that was not given.",
        )
    return None


_MAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}", re.ASCII)


def _without_account(text: str, account_id: str) -> str:
    """Return the text without the account's name, where that stands alone; a word or a link is none to be left out."""
    from keyturn.tasks import wording  # its patterns take 60 ms to compile: not at a worker's start

    if len(account_id) < SHORTEST_ID or account_id.isalpha():
        return text
    if not _MAIL.fullmatch(account_id) and wording.leads_elsewhere(account_id) is not None:
        return text
    return re.sub(rf"(?<![\w.@/-]){re.escape(account_id)}(?![\w@/-]|\.\w)", " ", text)


_WAITS = re.compile(r"\b(?:wait(?:s|ing)?|pending|review(?:s|ed|ing)?)\b", re.IGNORECASE)


def _varying(request: DraftRequest, _lines: Sequence[PolicyLine], _at: datetime | None) -> list[Section]:
    decision: JsonValue = None
    if request.decision is not None:
        decision = {"decision": request.decision, "rotation_window_days": request.rotation_window_days}
        if request.rotate_by is not None:
            decision |= {"rotate_by": request.rotate_by.date().isoformat()}
    return [
        ("account_id", request.account_id),
        ("decision", decision),
        ("waits_for_person", request.waits_for_person),
        ("question", request.question),
    ]


TASK: Task[DraftRequest, str, Draft] = Task(
    name="draft_reply",
    request=DraftRequest,
    proposal=None,
    answer=Draft,
    schema=None,
    stable=policy_section,
    varying=_varying,
    judge=judge,
    max_output_tokens=1_500,  # 2,000 characters are about 500; the rest is for models that think first
    max_cost_usd=Decimal("0.25"),
    cache_for=None,  # it is written to one person, and asking again is how they get another wording
    prompts=prompts_beside(__file__),
)
