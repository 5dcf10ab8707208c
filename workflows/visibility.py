"""The search attributes and the memo of a rotation: what a list filters by, and what it shows.

Search attributes stay readable, so they contain no private text. The memo is encrypted as every payload is.

`KeyturnOutcome` is set only where a rotation ends without a job: a completed one without it created its job. An upsert
is a billable action and an event of history, and the ordinary path has none to spare (docs/adr/0012).
"""

from collections.abc import Mapping
from typing import Any

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from keyturn.rotations.contracts import RotationRequest, RotationSubject
from keyturn.workflows.identity import MAX_ID, Names, shorten

TENANT = SearchAttributeKey.for_keyword("KeyturnTenant")
ACCOUNT = SearchAttributeKey.for_keyword("KeyturnAccount")
OWNER = SearchAttributeKey.for_keyword("KeyturnOwner")
POLICY_LINES = SearchAttributeKey.for_keyword_list("KeyturnPolicyLines")
OUTCOME = SearchAttributeKey.for_keyword("KeyturnOutcome")
PARKED = SearchAttributeKey.for_keyword("KeyturnParked")
APPROVAL, DISAGREEMENT = "approval", "disagreement"
# Memo fields: a RotationSubject, set at the start, and the RotationStatus of one that waits for a person.
SUBJECT, WAITING = "subject", "waiting"

# What each contains, for the documentation. The namespace's set-up uses this list.
SEARCH_ATTRIBUTES: Mapping[SearchAttributeKey[Any], str] = {
    TENANT: "The tenant ID.",
    ACCOUNT: "The account ID, or its pseudonym (KEYTURN_ACCOUNT_NAMES).",
    OWNER: "Who owned the key when it was asked for, or the pseudonym of that name; unset if no one was known to.",
    POLICY_LINES: "The policy lines, such as P-7@1.",
    OUTCOME: "The outcome of a rotation that completed without a job; unset if it created one.",
    PARKED: "What a parked rotation waits for: the kind of an error, `approval` or `disagreement`.",
}


def type_of(key: SearchAttributeKey[Any]) -> str:
    """Return a search attribute's type as `temporal operator search-attribute create --type` takes it."""
    written = IndexedValueType.Name(IndexedValueType.ValueType(key.indexed_value_type))
    return written.removeprefix("INDEXED_VALUE_TYPE_").title().replace("_", "")


def attributes_at_start(request: RotationRequest, names: Names, owner: str | None = None) -> TypedSearchAttributes:
    """Return what is known when a rotation starts; set then, they cost no action.

    Args:
        request: what is asked.
        names: account IDs to what may stand in plain text (KEYTURN_ACCOUNT_NAMES); owners may be addresses, too.
        owner: who owns the key; by default whom the request's inventory names.
    """
    pairs: list[SearchAttributePair[Any]] = [
        SearchAttributePair(TENANT, request.tenant_id),
        SearchAttributePair(ACCOUNT, shorten(names(request.account_id), MAX_ID)),
        SearchAttributePair(POLICY_LINES, [str(line) for line in request.policy_lines]),
    ]
    if owner := owner or request.owner:
        pairs.append(SearchAttributePair(OWNER, shorten(names(owner), MAX_ID)))
    return TypedSearchAttributes(pairs)


def memo_at_start(request: RotationRequest) -> Mapping[str, RotationSubject]:
    """Return what a list shows of a rotation; set at the start, it costs no action."""
    subject = RotationSubject(
        account_id=request.account_id,
        key_id=request.credential.key_id,
        kind=request.credential.kind,
        requested_by=request.user_id,
        owner=request.owner,
    )
    return {SUBJECT: subject}
