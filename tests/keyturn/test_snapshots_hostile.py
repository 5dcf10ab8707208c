"""Whatever a cloud answers while its keys are listed: it is read, or refused by name."""

import contextlib
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from keyturn.azure.calls import Reply as GraphReply
from keyturn.errors import KeyturnError
from keyturn.gcp.replies import Reply as GoogleReply
from keyturn.inventory.rows import RowFault
from keyturn.snapshots import attempts
from keyturn.snapshots.errors import CloudAnswerInvalid
from keyturn.snapshots.fetch import _read_page
from keyturn.snapshots.fetcher import Cloud, Part
from keyturn.snapshots.fetchers.aws import _keys_in
from keyturn.snapshots.fetchers.entra import EntraCloud
from keyturn.snapshots.fetchers.gcp import GcpCloud
from keyturn.snapshots.fetchers.kubernetes import KubernetesCloud
from keyturn.snapshots.parts import plan_of

NAMES = (
    *("value", "items", "metadata", "passwordCredentials", "owners", "tags", "keys", "accounts", "activities"),
    *("name", "email", "keyId", "appId", "startDateTime", "endDateTime", "validAfterTime", "validBeforeTime"),
    *("labels", "annotations", "kubernetes.io/service-account.name", "kubernetes.io/legacy-token-last-used"),
    *("creationTimestamp", "continue", "nextPageToken", "@odata.nextLink", "fullResourceName", "activity"),
    *(
        "observationPeriod",
        "startTime",
        "endTime",
        "lastAuthenticatedTime",
        "owner",
        "userPrincipalName",
        "signInActivity",
    ),
)
MOMENTS = ("2026-02-01T10:00:00Z", "9999-12-31", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "yesterday")
BODIES = st.dictionaries(
    st.sampled_from(NAMES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(MOMENTS),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=8),
        max_leaves=24,
    ),
    max_size=6,
)
PART = Part("lab-tenant")
PLAN = plan_of("test", "", [], datetime(2026, 11, 1, tzinfo=UTC))


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[list[Cloud], dict[str, Any]]:
    """The clouds with REST APIs, and a place for the body of all of their answers."""
    answer: dict[str, Any] = {}
    monkeypatch.setattr(attempts, "ATTEMPTS", 1)
    monkeypatch.setenv("AZURE_TENANT_ID", PART.name)
    monkeypatch.setenv("KEYTURN_KUBERNETES_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("KEYTURN_KUBERNETES_TOKEN_FILE", str(tmp_path / "none"))

    async def token(scope: str) -> SecretStr:
        return SecretStr("none")

    async def graph(operation: str, *_: Any, **__: Any) -> GraphReply:
        return GraphReply(operation, 200, answer["body"])

    async def google(*_: Any, **__: Any) -> GoogleReply:
        return GoogleReply(200, answer["body"])

    async def cluster(*_: Any) -> dict[str, Any]:
        found: dict[str, Any] = answer["body"]
        return found

    entra, gcp, kubernetes = EntraCloud(token), GcpCloud(), KubernetesCloud()
    monkeypatch.setattr(entra._calls, "ask", graph)
    monkeypatch.setattr(gcp._google, "ask", google)
    monkeypatch.setattr(kubernetes._api, "list_metadata", cluster)
    return [entra, gcp, kubernetes], answer


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(body=BODIES)
async def test_a_strange_answer_ends_one_part_and_not_the_fetch(
    bodies: tuple[list[Cloud], dict[str, Any]], body: dict[str, Any]
) -> None:
    """What is read of it has an account, a key and moments; what is not is an error with a name."""
    clouds, answer = bodies
    answer["body"] = body
    for cloud in clouds:
        try:
            page = await _read_page(cloud, PART, "", PLAN)
            lines = page.rows.lines()
        except KeyturnError:
            continue
        assert all({"account_id", "key_id", "observed_at"} <= json.loads(line).keys() for line in lines)


REPORT = [
    "user",
    "arn",
    *(f"access_key_{n}_{part}" for n in (1, 2) for part in ("active", "last_rotated", "last_used_date")),
]


@given(st.dictionaries(st.sampled_from(REPORT), st.none() | st.text(max_size=12) | st.sampled_from(MOMENTS)))
def test_a_strange_report_is_refused(row: dict[str, Any]) -> None:
    """By one of the failures that the reader of reports gives a name to."""
    with contextlib.suppress(AttributeError, KeyError, TypeError, RowFault):
        for key in _keys_in(row):
            assert (key.user, key.arn) == (row["user"], row["arn"])
            assert key.created_at.tzinfo is not None


def test_a_report_of_awss_form_yields_its_key() -> None:
    made = "2026-02-01T10:00:00Z"
    row = dict.fromkeys(REPORT, "N/A") | {"user": "u", "arn": "arn:aws:iam::1:user/u"}
    row |= {"access_key_1_active": "true", "access_key_1_last_rotated": made, "access_key_2_active": "false"}
    [key] = _keys_in(row)
    assert (key.user, key.created_at.isoformat(), key.is_active) == ("u", "2026-02-01T10:00:00+00:00", True)


CIRCLE: dict[str, Any] = {"value": [], "items": [], "metadata": {}, "keys": [], "accounts": [], "activities": []}


async def test_pages_that_lead_in_a_circle_are_refused(
    bodies: tuple[list[Cloud], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether to itself, or to an earlier one: each would be read for ever."""
    (entra, gcp, kubernetes), _ = bodies
    asked = 0

    def body(*links: str) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        assert asked < 20, "it does not end"
        at = links[asked % len(links)]
        return CIRCLE | {"metadata": {"continue": at}, "nextPageToken": at, "@odata.nextLink": at}

    for places in (("a",), ("a", "b"), ("a", "b", "c")):
        links = [f"{entra._settings.graph_url}/beta/{place}" for place in places]  # type: ignore[attr-defined]

        async def graph(operation: str, *_: Any, links: Any = links, **__: Any) -> GraphReply:
            return GraphReply(operation, 200, body(*links))

        async def google(*_: Any, places: Any = places, **__: Any) -> GoogleReply:
            return GoogleReply(200, body(*places))

        async def cluster(*_: Any, places: Any = places) -> dict[str, Any]:
            return body(*places)

        monkeypatch.setattr(entra._calls, "ask", graph)  # type: ignore[attr-defined]
        monkeypatch.setattr(gcp._google, "ask", google)  # type: ignore[attr-defined]
        monkeypatch.setattr(kubernetes._api, "list_metadata", cluster)  # type: ignore[attr-defined]
        readings: list[Any] = [entra._read_report, partial(_listed_of, gcp), kubernetes.parts]  # type: ignore[attr-defined]
        for reading in readings:
            asked = 0
            with pytest.raises(CloudAnswerInvalid, match="leads to itself, or to an earlier one"):
                await reading()


async def _listed_of(gcp: Any) -> None:
    async for _ in gcp._pages("keys.list", "https://x", {}):
        pass
