"""What crosses Temporal for a bulk run: where its keys come from, its pages, its progress and its outcome."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from keyturn.contracts import (
    MAX_POLICY_LINES,
    MAX_QUESTION_CHARACTERS,
    AccountId,
    Contract,
    Identifier,
    ShortIdentifier,
    expect_no_private_data,
)


class RunProgress(Contract):
    """How far a bulk run is: how many of its items have which outcome, and what the model calls cost so far.

    `cost_usd` leaves out calls of models without a known price.
    """

    total: int = Field(default=0, ge=0)
    asks: int = Field(default=0, ge=0)
    asked: int = Field(default=0, ge=0)
    outcomes: dict[Annotated[str, StringConstraints(max_length=32)], int] = Field(default_factory=dict, max_length=32)
    cost_usd: Decimal = Decimal(0)


class BulkSource(Contract):
    """An inventory on a disk, and what to ask about it. Of a directory, the newest file is read.

    With `fetch`, a cloud is read first, into a snapshot of the run in the directory.
    """

    path: str = Field(min_length=1, max_length=1_000)
    task: Literal["decide_rotation", "summarize_scan"] = "decide_rotation"
    policies: tuple[ShortIdentifier, ...] = Field(default=(), max_length=MAX_POLICY_LINES)
    question: Annotated[str, AfterValidator(expect_no_private_data)] = Field(
        default="", max_length=MAX_QUESTION_CHARACTERS
    )
    format: ShortIdentifier | None = None  # a source's name; None recognises it
    fetch: ShortIdentifier | None = None  # a fetcher's name
    access_keys: str | None = Field(default=None, max_length=1_000)
    account_id: AccountId | None = None
    observed_at: AwareDatetime | None = None
    always_ask: bool = False
    # Decide lines that code can read without a model.
    by_rule: bool = False
    # Give keys whose job failed or was cancelled another one.
    again: bool = False
    user_id: Identifier = "unknown"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.task == "decide_rotation" and not (self.policies and self.question):
            raise ValueError("decide_rotation needs policy lines and a question")
        if self.by_rule and (self.always_ask or self.task != "decide_rotation"):
            raise ValueError("--by-rule asks no model: leave out --always-ask and --task")
        return self


# A schedule adds the time to it, and each item its number, and the whole is still a trace id.
RunId = Annotated[ShortIdentifier, StringConstraints(max_length=48)]


class BulkOrder(Contract):
    """A bulk run to execute. Its items and its question are in the database, under its id.

    `next_page` is where to continue, counted from 0.
    """

    run_id: RunId
    tenant_id: ShortIdentifier = "default"
    # 50 keys a page: one activity's cost is spread thin, and a killed worker loses at most some calls of one page.
    page_size: int = Field(default=50, ge=1, le=500)
    # For a fleet of two workers as they are by default; how many calls are made at once is each worker's to find out.
    pages_at_once: int = Field(default=16, ge=1, le=64)
    # A page needs some seven events: this limits a history to about a tenth of what the server warns of.
    events_a_history: int = Field(default=1_000, ge=50, le=5_000)
    max_usd: Decimal | None = Field(default=None, gt=0)
    # What a schedule's run reads when it fires; None if the items are there already.
    source: BulkSource | None = None
    # Whether the provider's batch endpoint is asked first: within a day, at half the price.
    offline: bool = False
    next_page: int = Field(default=0, ge=0)
    paused: str | None = Field(default=None, max_length=64)


class BulkPage(Contract):
    """Some items of a run: those asked about from `first` to `last`, counted from 1."""

    run_id: ShortIdentifier
    tenant_id: ShortIdentifier
    first: int = Field(ge=1)
    last: int = Field(ge=1)
    # What its calls may have cost, those of earlier attempts included; None for no limit.
    max_usd: Decimal | None = None
    # What the dearest call of this run has cost; None while it is unknown what a call costs.
    dearest_usd: Decimal | None = None
    # Whether its last call may go over the limit: for the one page that runs alone, with all that is left.
    may_exceed: bool = False


class OfflineBatch(Contract):
    """Some items of a run that go to a provider's batch endpoint together, counted as in `BulkPage`."""

    run_id: ShortIdentifier
    tenant_id: ShortIdentifier
    number: int = Field(ge=0)
    first: int = Field(ge=1)
    last: int = Field(ge=1)


class BatchResult(Contract):
    """Whether a provider's batch is still in progress; and how many of its answers were accepted."""

    running: bool
    accepted: int = Field(default=0, ge=0)


# What stops a page when its run is paused or cancelled. The page may be whole all the same.
HALTED = "halted"


class PageResult(Contract):
    """The result of a page. `stopped` is HALTED, or the kind of the failure that stops the run; its items stay open."""

    progress: RunProgress
    stopped: str | None = Field(default=None, max_length=64)
    hint: str | None = Field(default=None, max_length=500)
    # What its dearest call has cost, or that of the pages before; None if none was made under a limit of cost.
    dearest_usd: Decimal | None = None


class RunResult(Contract):
    """How many rotations of a run have not come to an end or to a person yet."""

    progress: RunProgress
    left: int = Field(ge=0)


class BulkStatus(Contract):
    """What a bulk run is at. `paused` is why it is paused: the kind of a failure, or `by_hand`."""

    phase: Literal["loading", "offline", "judging", "paused", "settling", "ended"]
    progress: RunProgress
    since: AwareDatetime
    paused: str | None = Field(default=None, max_length=64)
    hint: str | None = Field(default=None, max_length=500)
    cancelled: bool = False


class BulkOutcome(Contract):
    """How a bulk run ended."""

    status: Literal["done", "cancelled"]
    run_id: ShortIdentifier
    progress: RunProgress
