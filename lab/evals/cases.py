"""The cases: `lab/evals/cases/TASK.jsonl`, one JSON object a line with `id`, `request` and `expect`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyturn.contracts import ModelTask
from keyturn.policy.catalogue import Catalogue
from keyturn.tasks.registry import load_tasks

FOLDER = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    """One question, and what an answer to it must be."""

    id: str
    request: ModelTask
    expect: Mapping[str, Any]


def load_cases(catalogue: Catalogue) -> list[Case]:
    """Return every case, its policy lines at their current versions."""
    cases = []
    for file in sorted(FOLDER.glob("*.jsonl")):
        task = load_tasks()[file.stem]
        for line in file.read_text(encoding="utf-8").splitlines():
            raw = json.loads(line)
            request = {"trace_id": f"eval_{raw['id']}"[:64], "user_id": "eval", **raw["request"]}
            request["policy_lines"] = [catalogue.current(name).ref for name in request.get("policy_lines", [])]
            cases.append(Case(f"{file.stem}/{raw['id']}", task.request.model_validate(request), raw["expect"]))
    return cases


def is_right(case: Case, answer: Any) -> bool:
    """Return True if an accepted answer is the one that the case expects."""
    return _RIGHT[case.request.task](answer, case.expect)


def _decision(answer: Any, expect: Mapping[str, Any]) -> bool:
    said = (answer.decision, answer.rotation_window_days)
    binding = {line.id for line in answer.source_lines}
    # Where a case names the lines, they are the ones that bind, no more and no fewer.
    sources = expect.get("cites")
    return said == (expect["decision"], expect["rotation_window_days"]) and (sources is None or binding == set(sources))


def _scan(answer: Any, expect: Mapping[str, Any]) -> bool:
    return bool(answer.needs_attention == expect["needs_attention"]) and set(expect["record_ids"]) <= set(
        answer.record_ids
    )


def _ticket(answer: Any, expect: Mapping[str, Any]) -> bool:
    priorities = expect["priority"] if isinstance(expect["priority"], list) else [expect["priority"]]
    return answer.category == expect["category"] and answer.priority in priorities


_RIGHT: Mapping[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "decide_rotation": _decision,
    "summarize_scan": _scan,
    "extract_ticket": _ticket,
    "summarize_policy": lambda answer, expect: all(part in answer.summary for part in expect["contains"]),
    "draft_reply": lambda answer, expect: all(part in answer.text for part in expect["contains"]),
}
