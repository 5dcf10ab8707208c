"""What the simulated model says: rules applied to the document in the prompt, and nothing else.

It reads the same text that a real model reads and shares no code with the program that it tests. Which task it is asked
is known by the fields of the answer's schema; plain text is a draft.
"""

import json
import re
from typing import Any

Document = dict[str, Any]


def answer(user: str, fields: frozenset[str]) -> str:
    """Return the answer to the document in `user`, as JSON of `fields`, or as plain text if there are none."""
    try:
        document = json.loads(user)
        if not isinstance(document, dict):
            document = {}
    except ValueError:
        document = {}
    if not fields:
        return _draft(document)
    task = _BY_FIELDS.get(fields)
    return json.dumps(task(document) if task else {})


def account_of(user: str) -> str | None:
    """Return the account that a prompt asks about; None if it names none."""
    try:
        document = json.loads(user)
        account = document.get("account_id") or document["account"]["account_id"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return account if isinstance(account, str) else None


def decide(document: Document) -> dict[str, Any]:
    """Return the decision that the document's policy lines and facts support; `not_specified` if it has none."""
    try:
        account, lines = document["account"], document["policy_lines"]
    except KeyError:
        return _decision("not_specified", None, [])
    covering = [line for line in lines if account["credential_kind"] in line["applies_to"]]
    old = set(account.get("evidence_too_old_for", []))
    verdicts = {line["id"]: None if line["id"] in old else _is_met(line["rule"], account) for line in covering}
    met = [line for line in covering if verdicts[line["id"]]]
    if met:
        windows = [line["window_days"] for line in met if line["window_days"] is not None]
        return _decision("eligible", min(windows, default=None), [line["id"] for line in met])
    if covering and all(verdict is False for verdict in verdicts.values()):
        return _decision("not_eligible", None, [line["id"] for line in covering])
    return _decision("not_specified", None, [])


def _is_met(rule: dict[str, Any], account: dict[str, Any]) -> bool | None:
    """Whether a rule is met; None where the evidence does not say."""
    when = rule["when"]
    if when == "never":
        return False
    if when in {"stale", "compromised"}:
        fact: bool | None = account[when]
        return fact
    if when == "prose":
        return None  # it reads no words
    if account[f"{when}_days"] is None:
        return None
    exact = rule["truncation"] == "exact"
    seen, edge = (
        (account[f"{when}_seconds"], rule["days"] * 86_400) if exact else (account[f"{when}_days"], rule["days"])
    )
    return bool(seen >= edge if rule["operator"] == ">=" else seen > edge)


def _decision(decision: str, window: int | None, sources: list[str]) -> dict[str, Any]:
    return {"decision": decision, "rotation_window_days": window, "source_line_ids": sources, "quotes": []}


def _scan(document: Document) -> dict[str, Any]:
    records = document.get("records", [])
    alarming = [
        record for record in records if re.search(r"expos|leak|fail|unknown|denied|stale", record["text"], re.I)
    ]
    named = [record["record_id"] for record in alarming or records]
    summary = f"{len(alarming)} of {len(records)} records of {document.get('account_id')} need a look."
    return {"summary": summary, "record_ids": named, "needs_attention": bool(alarming)}


def _policy(document: Document) -> dict[str, Any]:
    lines = document.get("policy_lines", [])
    return {
        "summary": " ".join(f"{line['id']}: {line['wording']}" for line in lines),
        "source_line_ids": [line["id"] for line in lines],
    }


_CATEGORIES = {
    "incident": r"outage|is down|breach|broken into|stolen|hacked",
    "billing": r"refund|paid|invoice|charge|billing|money",
    "access": r"log ?in|sign in|locked out|password|permission|access denied|blocked",
    "key_rotation": r"rotat|expir|\bkey\b|credential|service account",
}


def _ticket(document: Document) -> dict[str, Any]:
    message, known = str(document.get("message", "")), document.get("known", {})
    category = next((name for name, words in _CATEGORIES.items() if re.search(words, message, re.I)), "other")
    refund = float(known.get("refund_usd") or 0)
    high = known.get("user_blocked") or refund > float(document.get("high_refund_usd", "inf"))
    held_up = re.search(r"blocked|cannot|can't|waiting|urgent|down|expired|fail", message, re.I)
    summary = re.sub(r"\d[\d .-]{11,}\d", "[number]", message)
    summary = re.sub(r"\b(?:sk-|AKIA|gh[pousr]_)\S+", "[secret]", summary)
    return {
        "category": category,
        "summary": " ".join(summary.split())[:200],
        "priority": "high" if high else "medium" if held_up else "low",
    }


def _draft(document: Document) -> str:
    decision = document.get("decision")
    lines = ", ".join(line["id"] for line in document.get("policy_lines", []))
    if document.get("waits_for_person"):
        return f"Thank you for asking about {document.get('account_id')}. Your question waits for a review."
    if not decision:
        return f"Thank you for asking about {document.get('account_id')}. We are looking at your question."
    sentence = {
        "eligible": f"may be rotated under {lines}",
        "not_eligible": f"does not need to be rotated under {lines}",
        "not_specified": f"is not covered by {lines} as far as we know",
    }[decision["decision"]]
    window = decision.get("rotation_window_days")
    within = f" The policy's window is {window} days." if window else ""
    return f"Thank you for asking. The key of {document.get('account_id')} {sentence}.{within}{_MORE}"


# Long enough for a stream to be watched.
_MORE = """

This rests on the wording of the policy line and on what was seen of the key. If the key is still in use, tell whoever \
uses it first, so that nothing of theirs stops. A second key beside the old one leaves them time to change over.

If something about the key has changed since, or if this is another key than the one you mean, say so: the question is \
then looked at again on the new evidence."""

_BY_FIELDS = {
    frozenset({"decision", "rotation_window_days", "source_line_ids", "quotes"}): decide,
    frozenset({"summary", "record_ids", "needs_attention"}): _scan,
    frozenset({"summary", "source_line_ids"}): _policy,
    frozenset({"category", "summary", "priority"}): _ticket,
}
