"""A careless model: whatever it is asked, it says something that neither policy nor facts bear out."""

import json
from collections.abc import Iterator

from keyturn.contracts import RotationRequest
from keyturn.llm.providers.http import Patience
from keyturn.llm.wire import Completion, OnText, Usage
from keyturn.tasks.definition import Prompt


class Careless:
    """A provider that gives the answer it was made with."""

    name = "careless"
    model = "careless-1"

    def __init__(self, answer: str) -> None:
        self._answer = answer

    async def complete(
        self, prompt: Prompt, *, patience: Patience, trace_id: str, on_text: OnText | None = None
    ) -> Completion:
        """Return the answer."""
        return Completion(self._answer, "complete", "stop", self.model, Usage(1, 1))


def wrong_answers(request: RotationRequest, decision: str, window: int | None) -> Iterator[str]:
    """Yield answers to `request` that would make a job and must not: `decision` and `window` are the right ones."""
    supplied = [line.id for line in request.policy_lines]
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
            yield json.dumps({"decision": "eligible", "rotation_window_days": days, "source_line_ids": sources})
