"""The desk's JSON against its own description: whatever is sent, the answer is one of those that it promises."""

import asyncio
import uuid
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from sqlalchemy.engine import URL
from temporalio.client import Client

from tests.support.desks import TOKENS, place
from tests.support.simulated import SimulatorControl

PROMISED = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
EXAMPLES = 40  # for each operation: some hundreds of requests in some seconds


async def test_whatever_is_sent_the_answer_is_one_that_is_described(
    temporal: Client, sqlite: URL, simulator: SimulatorControl
) -> None:
    """Generated requests, valid and not: no operation fails by itself, and none answers what it does not promise."""
    async with place(temporal, sqlite, simulator) as here, here.open(KEYTURN_DESK_WAIT_SECONDS=0.2) as url:
        seen = await asyncio.to_thread(_fuzz, url)
    assert {200, 202, 404, 422} <= set(seen), "it never came past the door"
    assert len(seen) > 300


def _fuzz(url: str) -> list[int]:
    schema, seen = schemathesis.openapi.from_url(f"{url}/openapi.json"), []
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        asks = operation.method == "post" and operation.path.endswith(("/rotations", "/drafts", "/stop"))
        headers = {"Authorization": f"Bearer {TOKENS['luna' if asks else 'omar']}"}
        seen.extend(_answers(operation, headers))
    return seen


def _answers(operation: Any, headers: dict[str, str]) -> list[int]:
    """The statuses that an operation answered with, each as it is described."""
    seen: list[int] = []

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy())
    def answer_is_described(case: Any) -> None:
        sent = dict(headers)
        if len(seen) % 2 and isinstance(case.body, dict) and "policy_lines" in case.body:
            # What no generator guesses: a line that there is, and a new key.
            case.body["policy_lines"], sent["Idempotency-Key"] = ["P-7"], str(uuid.uuid4())
        response = case.call(headers=sent)
        seen.append(response.status_code)
        case.validate_response(response, checks=PROMISED)

    answer_is_described()
    return seen
