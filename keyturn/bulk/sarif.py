"""The findings of a run as SARIF 2.1.0, which code scanning and many dashboards read.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/sarif-v2.1.0-os.html
"""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from keyturn.bulk.findings import Finding, Severity
from keyturn.bulk.store import Run
from keyturn.console import counted
from keyturn.policy.line import PolicyLine

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
# `error`: a serious problem; `warning`: a problem; `note`: a minor one (3.27.10 of the specification).
_LEVELS: Mapping[Severity, str] = {
    "compromised": "error",
    "overdue": "error",
    "disagreement": "error",
    "due": "warning",
    "waived": "note",
    "attention": "warning",
    "undecided": "note",
    "unusable": "note",
    "unowned": "note",
}
WITHOUT_LINE = "keyturn/not-decided"  # the rule of what is due under no line: what was not decided or not read


async def write_sarif(
    found: AsyncIterator[Finding], run: Run, lines: Sequence[PolicyLine], write: Callable[[str], Any], *, version: str
) -> None:
    """Write findings as they come, so that memory does not grow with the run.

    Args:
        found: the findings.
        run: of which.
        lines: the policy lines, which are its rules.
        write: takes the text.
        version: Keyturn's.
    """
    rules: list[dict[str, Any]] = [
        {"id": str(line.ref), "shortDescription": {"text": line.wording}, "name": line.id} for line in lines
    ]
    rules.append({"id": WITHOUT_LINE, "shortDescription": {"text": "The key or row could not be decided."}})
    driver = {"name": "Keyturn", "semanticVersion": version, "rules": rules}
    head = json.dumps({"driver": driver})
    write(f'{{"$schema": {json.dumps(SCHEMA)}, "version": "2.1.0", "runs": [{{"tool": {head}, ')
    write(f'"automationDetails": {{"id": {json.dumps(f"keyturn/{run.run_id}")}}}, "results": [')
    separator = ""
    async for one in found:
        write(separator + json.dumps(result_of(one, run)))
        separator = ",\n"
    write("]}]}\n")


def result_of(one: Finding, run: Run) -> dict[str, Any]:
    """Return a finding as a SARIF result; the same key under the same lines has the same fingerprint in every run."""
    key = f"{one.key_id} of {one.account_id}" if one.key_id else f"row {one.line}"
    overdue = "" if one.overdue_days is None else f", by {counted(one.overdue_days, 'day')}"
    since = {} if one.since is None else {"baselineState": one.since}  # 3.27.24 of the specification
    same = json.dumps([one.account_id, one.key_id, one.policy_lines, one.severity])
    return {
        "ruleId": one.policy_lines[0] if one.policy_lines else WITHOUT_LINE,
        "level": _LEVELS[one.severity],
        "message": {"text": f"{key}: {one.severity}{overdue}. {one.evidence}. Done: {one.done}. {one.following}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(run.source.rpartition("/")[2])},
                    "region": {"startLine": max(one.line, 1)},
                }
            }
        ],
        "partialFingerprints": {"keyturn/v1": hashlib.sha256(same.encode()).hexdigest()[:32]},
        "properties": {
            "severity": one.severity,
            "account_id": one.account_id,
            "key_id": one.key_id,
            "owner": one.owner,
            "policy_lines": list(one.policy_lines),
            "rotate_by": one.rotate_by.isoformat() if one.rotate_by else None,
            "overdue_days": one.overdue_days,
        },
        **since,
    }
