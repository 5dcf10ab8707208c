"""A careless model: whatever it is asked, it says something that policy and facts do not support."""

import json
from collections.abc import Iterator, Mapping

from keyturn.llm.endpoint import Timeouts
from keyturn.llm.wire import Completion, OnText, Usage
from keyturn.rotations.contracts import RotationRequest
from keyturn.tasks.definition import Prompt


class Careless:
    """A provider that gives the answer it was made with."""

    name = "careless"
    model = "careless-1"
    passes_quota_on = False

    def __init__(self, answer: str) -> None:
        self._answer = answer

    async def complete(
        self, prompt: Prompt, *, timeouts: Timeouts, trace_id: str, on_text: OnText | None = None
    ) -> Completion:
        """Return the answer."""
        return Completion(self._answer, "complete", "stop", self.model, Usage(1, 1))


NOES = ("not_eligible", "not_specified")


def wrong_answers(
    request: RotationRequest, decision: str, window: int | None, windows: Mapping[str, int | None]
) -> Iterator[tuple[str, str]]:
    """Yield wrong answers to `request`, each with what it would do: `yes`, `no` or `lines`.

    Args:
        request: the question.
        decision: the right one.
        window: the right one.
        windows: of each supplied line, by its id.
    """
    supplied = sorted(windows)
    for days, sources in (
        (30, supplied),
        (45, supplied),
        (90, supplied),
        (1, supplied),
        (None, supplied),
        (window, [*supplied, "P-999"]),
        (window, []),
        (-1, supplied),
    ):
        # With one line, an eligible case's own window and line are the right answer; several may differ in both.
        may_be_right = decision == "eligible" and sources == supplied and (days == window or len(supplied) > 1)
        if not may_be_right:
            yield "yes", _answer("eligible", days, sources)
    for said in NOES:
        if said != decision:
            yield "no", _answer(said, None, [])
            yield "no", _answer(said, None, supplied)
    if decision == "eligible":
        for name, days in windows.items():
            if days != window:  # the laxer line alone, with its own window and with the right one
                yield "lines", _answer("eligible", days, [name])
                yield "lines", _answer("eligible", window, [name])


def _answer(decision: str, window: int | None, sources: list[str]) -> str:
    return json.dumps({"decision": decision, "rotation_window_days": window, "source_line_ids": sources, "quotes": []})
