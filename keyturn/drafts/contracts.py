"""What crosses Temporal for a draft."""

from typing import Literal

from pydantic import Field

from keyturn.calls import CallRecord
from keyturn.contracts import MAX_ANSWER_CHARACTERS, AccountId, Contract, Identifier, ShortIdentifier
from keyturn.rotations.decisions import RejectionReason

DraftState = Literal["started", "streaming", "completed", "failed", "cancelled"]


DraftEnding = Literal["completed", "failed", "cancelled"]


class DraftResult(Contract):
    """A draft at its end, judged as a whole. One that is not approved is shown with the reason, and never sent."""

    text: str = Field(max_length=MAX_ANSWER_CHARACTERS)
    approved: bool
    reason: RejectionReason | None = None
    explanation: str = Field(default="", max_length=500)
    call: CallRecord


class DraftEnd(Contract):
    """How a draft ended, for those who read it. `reason` is the failure's kind, or why the text is not approved."""

    draft_id: str = Field(max_length=256)
    tenant_id: ShortIdentifier
    account_id: AccountId
    requested_by: Identifier
    state: DraftEnding
    written: DraftResult | None = None
    reason: str | None = Field(default=None, max_length=64)
    explanation: str = Field(default="", max_length=500)
