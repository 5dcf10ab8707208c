"""`extract_ticket`: category, summary and priority of a support message. `high` needs a fact that bears it out."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, get_args

from pydantic import Field, JsonValue

from keyturn.contracts import MAX_QUESTION_CHARACTERS, Contract, ModelTask, ShortIdentifier
from keyturn.policy.line import PolicyLine
from keyturn.rotations.decisions import Rejection
from keyturn.tasks.definition import Section, Task, answer_schema, prompts_beside

Category = Literal["key_rotation", "access", "billing", "incident", "other"]  # the names of the routing teams
Priority = Literal["low", "medium", "high"]
MAX_SUMMARY_CHARACTERS = 300
# A refund above this is looked at the same day. Policy of the support desk, not of a model.
HIGH_REFUND_USD = Decimal(100)


class TicketRequest(ModelTask):
    """A support message, and what our own systems know of its sender."""

    task: Literal["extract_ticket"] = "extract_ticket"
    message: str = Field(min_length=1, max_length=MAX_QUESTION_CHARACTERS)
    refund_usd: Decimal | None = Field(default=None, ge=0)
    user_blocked: bool = False
    prompt_version: ShortIdentifier = "ticket@1"
    # Hidden work while a form is filled in, like autocomplete: after 8 s the form continues without it.
    timeout_seconds: float = Field(default=8.0, gt=0, le=120)


class ProposedTicket(Contract):
    """What a model said, unchecked."""

    category: JsonValue
    summary: JsonValue
    priority: JsonValue


class Ticket(Contract):
    """A checked ticket."""

    category: Category
    summary: str = Field(min_length=1, max_length=MAX_SUMMARY_CHARACTERS)
    priority: Priority


def judge(
    proposed: ProposedTicket, request: TicketRequest, _lines: Sequence[PolicyLine], _at: datetime | None = None
) -> Ticket | Rejection:
    """Return the ticket if its values are allowed, its priority supported, and its summary fit to be stored."""
    from keyturn.tasks import wording  # its patterns take 60 ms to compile: not at a worker's start

    categories: dict[JsonValue, Category] = {name: name for name in get_args(Category)}
    priorities: dict[JsonValue, Priority] = {name: name for name in get_args(Priority)}
    # A customer may write of what they did, and a ticket repeats it.
    summary = wording.fit_text(proposed.summary, MAX_SUMMARY_CHARACTERS, may_mention_actions=True)
    category = categories.get(proposed.category) if isinstance(proposed.category, str) else None
    priority = priorities.get(proposed.priority) if isinstance(proposed.priority, str) else None
    if category is None or priority is None:
        return Rejection(reason="value_not_allowed", explanation="Category or priority is none of those that exist.")
    if isinstance(summary, Rejection):
        return summary
    # What a customer asks for, and where to reach them, may be said; a link or markup leads whoever reads the ticket.
    elsewhere = wording.leads_elsewhere(wording.without_names(summary, request.message))
    if elsewhere in {"hidden_characters", "holds_link"}:
        return Rejection(reason=elsewhere, explanation=wording.ELSEWHERE[elsewhere])
    if priority == "high" and not supports_high(request):
        return Rejection(
            reason="unsupported_priority",
            explanation=f"High needs a refund over {HIGH_REFUND_USD} dollars or a user who is locked out.",
        )
    return Ticket(category=category, summary=summary, priority=priority)


def supports_high(request: TicketRequest) -> bool:
    """Return True if what our systems know of the sender allows `high`; what the message claims does not count."""
    return request.user_blocked or (request.refund_usd is not None and request.refund_usd > HIGH_REFUND_USD)


def _stable(_lines: Sequence[PolicyLine]) -> list[Section]:
    return [("categories", list(get_args(Category))), ("high_refund_usd", str(HIGH_REFUND_USD))]


def _varying(request: TicketRequest, _lines: Sequence[PolicyLine], _at: datetime | None) -> list[Section]:
    refund = None if request.refund_usd is None else str(request.refund_usd)
    return [("known", {"refund_usd": refund, "user_blocked": request.user_blocked}), ("message", request.message)]


TASK: Task[TicketRequest, ProposedTicket, Ticket] = Task(
    name="extract_ticket",
    request=TicketRequest,
    proposal=ProposedTicket,
    answer=Ticket,
    schema=answer_schema(
        category={"type": "string", "enum": list(get_args(Category))},
        summary={"type": "string"},
        priority={"type": "string", "enum": list(get_args(Priority))},
    ),
    stable=_stable,
    varying=_varying,
    judge=judge,
    max_output_tokens=1_000,
    max_cost_usd=Decimal("0.10"),
    cache_for=timedelta(days=1),  # a form that is sent twice
    prompts=prompts_beside(__file__),
)
