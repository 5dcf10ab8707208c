"""`draft_reply`: a draft of the answer to the asker, in plain text. A person sends it; it authorizes nothing."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import Field, JsonValue, field_validator

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
    # The rotation waits for a person's decision: the reply says so, and reports no decision.
    waits_for_person: bool = False
    prompt_version: ShortIdentifier = "reply_draft@2"
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
    proposed: str, request: DraftRequest, lines: Sequence[PolicyLine], _at: datetime | None = None
) -> Draft | Rejection:
    """Return the draft if it promises nothing, has nothing private, and names no line or figure but the policy's."""
    from keyturn.tasks import wording  # its patterns take 60 ms to compile: not at a worker's start

    text = wording.fit_text(proposed, MAX_DRAFT_CHARACTERS)
    if isinstance(text, Rejection):
        return text
    return _fault_of(text, request, lines) or Draft(text=text)


def _fault_of(text: str, request: DraftRequest, lines: Sequence[PolicyLine]) -> Rejection | None:
    """Why a text that may be shown is not the reply to this request; None if it is."""
    from keyturn.tasks import wording  # its patterns take 60 ms to compile: not at a worker's start

    # A service account's own name may look like a mail address; the policy's wording may have a link. Nothing else may.
    own = [*(line.wording for line in lines), *(line.id for line in lines)]
    elsewhere = wording.leads_elsewhere(_without_account(_without(text, own), request.account_id))
    if elsewhere is not None:
        return Rejection(reason=elsewhere, explanation=_ELSEWHERE[elsewhere])
    if request.waits_for_person and not _WAITS.search(text):
        return Rejection(reason="omits_waiting", explanation="The draft does not say that a person must approve first.")
    if _contradicts(text, request.decision) or (request.waits_for_person and _states_decision(text)):
        return Rejection(
            reason="decision_not_allowed", explanation="The draft states another decision than the recorded one."
        )
    if _lines_cited(text) - {line.id for line in lines} - {request.account_id}:
        return Rejection(reason="unknown_source", explanation="The draft names a policy line that was not given.")
    if wording.days_named(text) - days_supported(lines, request.rotation_window_days):
        return Rejection(
            reason="unsupported_figure", explanation="The draft states a number of days that was not given."
        )
    return None


_ELSEWHERE: Mapping[str, str] = {
    "hidden_characters": "The draft holds invisible characters, or characters that change the direction of writing.",
    "holds_link": "The draft holds an address or a link that the policy does not give.",
    "holds_markup": "The draft holds markup: it is plain text.",
    "holds_phone_number": "The draft holds what looks like a phone number.",
    "asks_for_secret": "The draft asks for a secret, a password or a key.",
}


def _without(text: str, own: Sequence[str]) -> str:
    for known in own:
        text = text.replace(known, " ")
    return text


def _without_account(text: str, account_id: str) -> str:
    """Return the text without the account's name, where that stands alone; a word or a link is none to be left out."""
    if "://" in account_id or len(account_id) < SHORTEST_ID or account_id.isalpha():
        return text
    return re.sub(rf"(?<![\w.@/-]){re.escape(account_id)}(?![\w@/-]|\.\w)", " ", text)


_WAITS = re.compile(r"\b(?:wait(?:s|ing)?|pending|review(?:s|ed|ing)?)\b", re.IGNORECASE)
_YES = re.compile(r"\b(?:is|are) eligible\b|\b(?:may|can|should|must) be rotated\b", re.IGNORECASE)
_NO = re.compile(
    r"\b(?:not|n't) eligible\b|\b(?:may|can|need|should|must|does|is)\s?(?:not|n't)(?: \w+){0,3} be rotated\b",
    re.IGNORECASE,
)


# What looks like a policy line's id: parts in capitals with dashes between them, a figure in one. Of what else looks
# so, a reply about a key may name these.
_LINE_ID = re.compile(r"(?<![\w-])[A-Z][A-Z0-9]*(?:-[A-Z0-9][A-Z0-9.]*)+(?![\w-])")
_NO_LINES = ("AES-", "CVE-", "ED-", "FIPS-", "CHG-", "INC-", "ISO-", "REQ-", "RFC-", "RSA-", "SHA-", "TLS-", "UTF-")
_TICKET = re.compile(
    r"\b(?:ticket|case|incident|issue|change)\s(?:number\s|no\.?\s)?#?[A-Z]{2,10}-\d+\b", re.IGNORECASE
)
_REGION = re.compile(r"(?:AF|AP|CA|CN|EU|IL|ME|MX|SA|US)-(?:GOV-)?[A-Z]+-\d")


def _lines_cited(text: str) -> set[str]:
    found = {name.rstrip(".") for name in _LINE_ID.findall(_TICKET.sub(" ", text))}
    return {
        name
        for name in found
        if any(map(str.isdigit, name)) and not name.startswith(_NO_LINES) and not _REGION.fullmatch(name)
    }


def _contradicts(text: str, decision: Decision | None) -> bool:
    """Whether the draft plainly says the opposite of the decision. What it says in other words, a person has to see."""
    if decision is None:
        return False
    says_no, says_yes = _NO.search(text), _YES.search(_NO.sub("", text))
    return bool(says_no and not says_yes) if decision == "eligible" else bool(says_yes and not says_no)


def _states_decision(text: str) -> bool:
    return bool(_YES.search(text) or _NO.search(text))


def days_supported(lines: Sequence[PolicyLine], *others: int | None) -> set[float]:
    """Return the numbers of days that a text about `lines` may name: their windows, rules and wording."""
    from keyturn.tasks import wording  # its patterns take 60 ms to compile: not at a worker's start

    days: set[float] = {number for number in others if number is not None}
    for line in lines:
        days |= wording.days_named(line.wording)
        days |= {number for number in (line.window_days, getattr(line.rule, "days", None)) if number is not None}
    return days


def _varying(request: DraftRequest, _lines: Sequence[PolicyLine], _at: datetime | None) -> list[Section]:
    decision: JsonValue = None
    if request.decision is not None:
        decision = {"decision": request.decision, "rotation_window_days": request.rotation_window_days}
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
