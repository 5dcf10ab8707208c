"""The search attributes of a rotation: what an operator filters by. They stay readable, so they hold no private text.

`KeyturnOutcome` is set only where a rotation ends without a job: a completed one that has none made its job. An upsert
is a billable action and an event of history, and the ordinary path has none to spare (docs/adr/0012).
"""

from collections.abc import Mapping

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from keyturn.contracts import RotationRequest
from workflows.identity import MAX_ID, Names, shortened

TENANT = SearchAttributeKey.for_keyword("KeyturnTenant")
ACCOUNT = SearchAttributeKey.for_keyword("KeyturnAccount")
POLICY_LINES = SearchAttributeKey.for_keyword_list("KeyturnPolicyLines")
OUTCOME = SearchAttributeKey.for_keyword("KeyturnOutcome")
# What a waiting rotation waits for: the kind of a failure, `approval` or `disagreement`.
PARKED = SearchAttributeKey.for_keyword("KeyturnParked")
APPROVAL, DISAGREEMENT = "approval", "disagreement"

# By name, the type as `temporal operator search-attribute create --type` takes it.
SEARCH_ATTRIBUTES: Mapping[str, str] = {
    TENANT.name: "Keyword",
    ACCOUNT.name: "Keyword",
    POLICY_LINES.name: "KeywordList",
    OUTCOME.name: "Keyword",
    PARKED.name: "Keyword",
}


def attributes_at_start(request: RotationRequest, names: Names) -> TypedSearchAttributes:
    """Return what is known when a rotation starts; set then, they cost no action."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(TENANT, request.tenant_id),
            SearchAttributePair(ACCOUNT, shortened(names(request.account_id), MAX_ID)),
            SearchAttributePair(POLICY_LINES, [str(line) for line in request.policy_lines]),
        ]
    )
