"""From a request to the prompt for it. The wording is a versioned file; what users supply enters as JSON data only.

The stable part comes first (instructions, then policy lines in a fixed order) and the account last, so that requests
under the same policy share their prefix byte for byte and a provider's prompt cache can serve it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

from pydantic import JsonValue

from keyturn.canonical import canonical_json
from keyturn.contracts import RotationRequest
from keyturn.errors import UnknownPromptVersion
from keyturn.policy.catalogue import PolicyLine

_FOLDER = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Prompt:
    """What a provider is asked: our instructions, the data, and the JSON schema of the answer."""

    version: str
    system: str
    user: str
    schema_name: str
    schema: dict[str, JsonValue]


ROTATION_DECISION_SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "properties": {
        "decision": {"type": "string", "enum": ["eligible", "not_eligible", "not_specified"]},
        "rotation_window_days": {"type": ["integer", "null"]},
        "source_line_ids": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["decision", "rotation_window_days", "source_line_ids"],
    "additionalProperties": False,
}


@cache
def instructions(version: str) -> str:
    """Return the wording of the prompt called `version`; raises UnknownPromptVersion, naming those that there are."""
    known = sorted(file.stem for file in _FOLDER.glob("*.md"))
    if version not in known:
        raise UnknownPromptVersion(f"there is no prompt {version!r}. Known prompts: {', '.join(known)}")
    return (_FOLDER / f"{version}.md").read_text(encoding="utf-8")


def rotation_prompt(request: RotationRequest, lines: Sequence[PolicyLine]) -> Prompt:
    """Return the prompt that asks whether the credential of `request` may be rotated under `lines`."""
    facts = request.credential
    document: list[tuple[str, JsonValue]] = [
        ("policy_lines", [_line(line) for line in sorted(lines, key=lambda line: line.id)]),
        (
            "account",
            {
                "account_id": request.account_id,
                "credential_kind": facts.kind,
                "stale": facts.stale,
                "compromised": facts.compromised,
                "age_days": _days(facts.age),
                "unused_days": _days(facts.unused_for),
                "observed_at": facts.observed_at.isoformat(),
            },
        ),
        ("question", request.question),
    ]
    # Written by hand, because the order carries meaning here and canonical JSON would sort it away.
    user = "{" + ",\n".join(f"{canonical_json(name)}:{canonical_json(value)}" for name, value in document) + "}"
    return Prompt(
        version=request.prompt_version,
        system=instructions(request.prompt_version),
        user=user,
        schema_name="rotation_decision",
        schema=ROTATION_DECISION_SCHEMA,
    )


def _line(line: PolicyLine) -> JsonValue:
    return line.model_dump(mode="json", include={"id", "wording", "applies_to", "window_days", "rule"})


def _days(elapsed: timedelta | None) -> float | int | None:
    if elapsed is None:
        return None
    days = elapsed / timedelta(days=1)
    return int(days) if days.is_integer() else round(days, 6)  # 6 places tell seconds apart
