"""What the simulated model says: the policy's rule applied to the evidence in the prompt, and nothing else.

It reads the same text that a real model reads and shares no code with the program that it tests.
"""

import json
import math
from typing import Any


def decide(prompt: str) -> dict[str, Any]:
    """Return the answer to the JSON document in `prompt`; a document that it cannot read is `not_specified`."""
    try:
        document = json.loads(prompt)
        account, lines = document["account"], document["policy_lines"]
    except (ValueError, KeyError, TypeError):
        return _answer("not_specified", None, [])
    covering = [line for line in lines if account["credential_kind"] in line["applies_to"]]
    verdicts = {line["id"]: _is_met(line["rule"], account) for line in covering}
    met = [line for line in covering if verdicts[line["id"]]]
    if met:
        windows = [line["window_days"] for line in met if line["window_days"] is not None]
        return _answer("eligible", min(windows, default=None), [line["id"] for line in met])
    if covering and all(verdict is False for verdict in verdicts.values()):
        return _answer("not_eligible", None, [line["id"] for line in covering])
    return _answer("not_specified", None, [])


def account_of(prompt: str) -> str | None:
    """Return the account that a prompt asks about; None if it names none."""
    try:
        account = json.loads(prompt)["account"]["account_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return account if isinstance(account, str) else None


def _is_met(rule: dict[str, Any], account: dict[str, Any]) -> bool | None:
    """Whether a rule is met; None where the evidence does not say."""
    when = rule["when"]
    if when == "never":
        return False
    if when in {"stale", "compromised"}:
        fact: bool | None = account[when]
        return fact
    days = account[f"{when}_days"]
    if days is None:
        return None
    if rule["truncation"] == "whole_days":
        days = math.floor(days)
    return bool(days >= rule["days"] if rule["operator"] == ">=" else days > rule["days"])


def _answer(decision: str, window: int | None, sources: list[str]) -> dict[str, Any]:
    return {"decision": decision, "rotation_window_days": window, "source_line_ids": sources}
