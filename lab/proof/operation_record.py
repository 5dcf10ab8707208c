"""What the caller of an operation saw of it."""

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keyturn.lab.proof.plan import Operation


@dataclass
class OperationRecord:
    """What was seen of one operation: each step with its time, and how it ended."""

    operation: Operation
    workflow_id: str = ""
    steps: list[tuple[float, str]] = field(default_factory=list)
    outcome: Any = None
    cancelled: bool = False
    contradicted: bool = False  # the caller was answered that it failed, while its job was there
    jobs: int = 0
    began: float = 0.0
    ended: float = 0.0
    struck: float | None = None  # when it met its fault

    @property
    def said(self) -> str:
        """How it ended, in a word."""
        return str(getattr(self.outcome, "status", None) or getattr(self.outcome, "name", None) or "written").lower()

    def say(self, step: str) -> None:
        """Write a step down: invoke, ok, fail or unknown, and what of."""
        self.steps.append((time.time(), step))

    def strike(self, step: str) -> None:
        """Write down what its asker itself does to it."""
        self.say(step)
        self.struck = self.struck or time.time()


class Incident(NamedTuple):
    """A fault of the whole stack, and when it started."""

    name: str
    at: float
