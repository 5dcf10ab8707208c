"""What a Temporal namespace must know before rotations run in it: the search attributes."""

from collections.abc import Iterable

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client

from workflows.visibility import SEARCH_ATTRIBUTES

_TYPES = {
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "KeywordList": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}


async def missing_search_attributes(client: Client) -> list[str]:
    """Return the names of those that the client's namespace does not have."""
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return [name for name in SEARCH_ATTRIBUTES if name not in known.custom_attributes]


async def add_search_attributes(client: Client, names: Iterable[str] = SEARCH_ATTRIBUTES) -> None:
    """Add the search attributes `names` to the namespace of `client`. Temporal Cloud has tools of its own for that."""
    wanted = {name: _TYPES[SEARCH_ATTRIBUTES[name]] for name in names}
    if wanted:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=wanted)
        )
