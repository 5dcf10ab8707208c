"""The gate against the one-sided one that stood before it: the same answers, side by side, in turn."""

import time
from collections.abc import Callable
from datetime import timedelta

from benchmarks.one_sided_gate import ground as one_sided
from benchmarks.results import Result, compared
from keyturn.contracts import CredentialFacts
from keyturn.policy.catalogue import load_catalogue
from keyturn.policy.grounding import ground
from keyturn.policy.line import PolicyLine
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.decisions import ProposedDecision

LINES = ("CIS-AWS-7.0-2.12", "CIS-AWS-7.0-2.11", "AWS-FSBP-IAM.3", "AWS-FSBP-IAM.22")
ROUND = 2_000


def measure(*, rounds: int) -> list[Result]:
    """Return the time of judging a right answer, with one policy line and with four."""
    catalogue = load_catalogue()
    results: list[Result] = []
    for names, window in ((("P-7",), 30), (LINES, 45)):
        lines = [catalogue.current(name) for name in names]
        request = _request(lines)
        proposed = ProposedDecision(decision="eligible", rotation_window_days=window, source_line_ids=list(names))
        at = request.credential.observed_at + timedelta(hours=1)
        ours, before = [], []
        for number in range(rounds + 1):
            both = (
                _microseconds(lambda: ground(proposed, request, lines, at)),  # noqa: B023 - called at once
                _microseconds(lambda: one_sided(proposed, request, lines)),  # noqa: B023
            )
            if number:  # the first round warms both
                ours.append(both[0])
                before.append(both[1])
        label = "one line" if len(names) == 1 else f"{len(names)} lines"
        name = f"gate, {label}, against the one-sided gate of before"
        results.append(compared(name, ours, before, unit="us", target=1.0))
    return results


def _request(lines: list[PolicyLine]) -> RotationRequest:
    kind = lines[0].applies_to[0]
    facts = {"key_id": "key_01", "kind": kind, "stale": True, "age_days": 200, "never_used": True}
    return RotationRequest(
        account_id="acct_10234",
        policy_lines=tuple(line.ref for line in lines),
        question="May it be rotated?",
        trace_id="t",
        credential=CredentialFacts.model_validate({**facts, "observed_at": "2026-11-21T09:00:00Z"}),
    )


def _microseconds(judge: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(ROUND):
        judge()
    return (time.perf_counter() - began) / ROUND * 1e6
