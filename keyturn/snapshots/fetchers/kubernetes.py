"""Kubernetes: the secrets with tokens of service accounts, by their metadata alone.

The API server is asked for PartialObjectMetadata, so that no token is ever sent here; it is read namespace by
namespace, each of which may have its own Role. Newer clusters write down when such a token was last used, by the day.

https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin (legacy tokens and their labels)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from pydantic_settings import BaseSettings

from keyturn.snapshots.attempts import Places, repeated
from keyturn.snapshots.errors import CursorInvalid
from keyturn.snapshots.fetcher import Fetcher, Page, Part
from keyturn.snapshots.rows import Rows, owner_in

SOURCE = "kubernetes"
OBJECTS_A_PAGE = 500  # as kubectl asks for: metadata of some kilobytes each
_ACCOUNT = "kubernetes.io/service-account.name"
_LAST_USED = "kubernetes.io/legacy-token-last-used"
_INVALID_SINCE = "kubernetes.io/legacy-token-invalid-since"
_ONLY_TOKENS = "type=kubernetes.io/service-account-token"
# A day of UTC, as late as it allows: a key must not look unused for longer than it was.
_DAY = timedelta(days=1) - timedelta(seconds=1)


class KubernetesCloud:
    """The service-account tokens of one cluster."""

    def __init__(self) -> None:
        from keyturn.targets.kubernetes.api import ClusterApi, cluster_of_environment

        self._api = ClusterApi(cluster_of_environment())

    async def parts(self) -> Sequence[Part]:
        """Return the namespaces."""
        found: list[Part] = []
        query, places = dict[str, str](), Places()
        while True:
            page = await self._page("/api/v1/namespaces", query)
            found += [Part(str(metadata["name"]), _owner_of(metadata)) for metadata in _metadata_in(page)]
            following = _continue_in(page)
            if not following:
                return sorted(found)
            query = {"continue": places.pass_by(following)}

    async def read(self, part: Part, cursor: str, observed_at: datetime) -> Page:
        """Return a page of the tokens in a namespace."""
        query = {"fieldSelector": _ONLY_TOKENS} | ({"continue": cursor} if cursor else {})
        page = await self._page(f"/api/v1/namespaces/{quote(part.name)}/secrets", query)
        rows = Rows(observed_at, SOURCE, part.owner)
        for metadata in _metadata_in(page):
            _add(rows, part.name, metadata, observed_at)
        return Page(rows, _continue_in(page))

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def _page(self, url: str, query: Mapping[str, str]) -> Mapping[str, Any]:
        asked = {"limit": str(OBJECTS_A_PAGE), **query}
        page = await repeated(lambda: self._api.list_metadata(url, asked))
        if page is None:
            raise CursorInvalid(f"{url}: the listing has expired")
        return page


def _add(rows: Rows, namespace: str, metadata: Mapping[str, Any], observed_at: datetime) -> None:
    labels, account = _texts(metadata, "labels"), _texts(metadata, "annotations").get(_ACCOUNT)
    if not account:  # the controller has not made it one yet, or its account is gone: no one can log in with it
        rows.notes.append("a secret of the type of tokens is of no service account, and is left out")
        return
    day = _moment(labels.get(_LAST_USED))
    rows.add(
        f"system:serviceaccount:{namespace}:{account}",  # as the API server calls who logs in with it
        str(metadata["name"]),
        created_at=_moment(metadata.get("creationTimestamp")),
        last_used_at=None if day is None else day + _DAY,
        is_active=_INVALID_SINCE not in labels,
        owner=_owner_of(metadata),
    )


def _owner_of(metadata: Mapping[str, Any]) -> str:
    return owner_in(_texts(metadata, "labels")) or owner_in(_texts(metadata, "annotations"))


def _metadata_in(page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    items = page.get("items")
    listed = items if isinstance(items, list) else []
    found = [item.get("metadata") for item in listed if isinstance(item, dict)]
    return [metadata for metadata in found if isinstance(metadata, dict) and metadata.get("name")]


def _continue_in(page: Mapping[str, Any]) -> str:
    metadata = page.get("metadata")
    return str(metadata.get("continue") or "") if isinstance(metadata, dict) else ""


def _texts(metadata: Mapping[str, Any], name: str) -> Mapping[str, str]:
    value = metadata.get(name)
    return value if isinstance(value, dict) else {}


def _moment(text: object) -> datetime | None:
    """Return a moment, or the beginning of a day; None for anything else."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _settings() -> type[BaseSettings]:
    from keyturn.targets.kubernetes.api import KubernetesSettings

    return KubernetesSettings


FETCHER = Fetcher("kubernetes", part="namespace", open=KubernetesCloud, settings=_settings)
