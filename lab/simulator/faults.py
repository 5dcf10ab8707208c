"""The ways in which the simulator can be made to fail, and which request each one meets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keyturn.lab.simulator.formats import Ending

FAULTS: Mapping[str, str] = {
    "slow": "answer after `seconds` (default 30)",
    "trickle": "send the answer a byte at a time, over `seconds` (default 30)",
    "rate_limit": "too many requests for now: 429, with the wait of `seconds` if given",
    "quota": "quota or credit used up",
    "spend_limit": "a spend limit reached",
    "server_error": "500",
    "unavailable": "503",
    "overloaded": "Anthropic's 529, OpenAI's slow_down",
    "unauthorized": "the key is not valid",
    "bad_request": "400",
    "not_found": "404: no such model",
    "too_large": "413",
    "status": "any `status`, with a page of HTML and the wait of `seconds` if given",
    "wrong_window": "an eligible answer with a window of `days` (default 90)",
    "unknown_source": "an eligible answer that cites the policy line P-999",
    "says": "whatever `content` is, as the model's whole answer",
    "malformed_json": "text that is not JSON",
    "truncated_json": "an answer cut off at the token limit",
    "context_window": "an answer cut off where the context window ended",
    "refusal": "a refusal",
    "content_filter": "blocked by the content filter",
    "not_a_completion": "200 with a page of HTML",
    "huge_body": "200 with 8 MiB of blanks",
    "compressed": "200 with a gzip body of 64 MiB of blanks",
    "half_body": "the connection drops in the middle of the body",
    "hang": "a stream that falls silent in its middle, for `seconds` (default 30), and then continues",
    "broken_stream": "a stream that ends in its middle with the provider's error for an overload",
    "drop": "the connection drops before any answer",
}


class UnknownFault(ValueError):
    """A fault was asked for that does not exist, or with arguments that it does not take."""


@dataclass
class Fault:
    """One fault: for the next `times` requests (None: until reset), of `account` or `provider` only if one is given."""

    name: str
    times: int | None = 1
    account: str | None = None
    provider: str | None = None
    seconds: float | None = None
    days: int = 90
    status: int = 418
    content: str = ""

    @classmethod
    def from_json(cls, raw: Any) -> "Fault":
        """Return the fault that a control request describes; raises UnknownFault, saying what may be asked for."""
        if not isinstance(raw, dict) or raw.get("name") not in FAULTS:
            raise UnknownFault(f"name one of: {', '.join(FAULTS)}")
        try:
            return cls(**raw)
        except TypeError:
            raise UnknownFault(f"a fault takes: {', '.join(cls.__dataclass_fields__)}") from None

    def meets(self, account: str | None, provider: str) -> bool:
        """Return True, and count, if this fault is for a request about `account` to `provider`."""
        if self.times == 0 or (self.account or account) != account or (self.provider or provider) != provider:
            return False
        if self.times is not None:
            self.times -= 1
        return True


def apply_fault(fault: Fault, answer: str) -> tuple[str, Ending]:
    """Return text and ending of an answer under `fault`."""
    try:
        sources = json.loads(answer)["source_line_ids"] or ["P-7"]
    except (ValueError, KeyError, TypeError):
        sources = ["P-7"]
    table: dict[str, tuple[str, Ending]] = {
        "wrong_window": (_eligible(fault.days, sources), "complete"),
        "unknown_source": (_eligible(30, ["P-999"]), "complete"),
        "says": (fault.content, "complete"),
        "malformed_json": ("Certainly! The key is eligible.", "complete"),
        "truncated_json": (answer[:17], "truncated"),
        "context_window": (answer[:17], "context_window"),
        "refusal": ("", "refused"),
        "content_filter": ("", "filtered"),
    }
    return table.get(fault.name, (answer, "complete"))


def _eligible(window: int, sources: list[str]) -> str:
    return json.dumps({"decision": "eligible", "rotation_window_days": window, "source_line_ids": sources})
