"""What may go wrong with one rotation, and what must come of it all the same. A seed gives the same plan again.

A rotation's account carries its fault (`acct_000012-kill_after_claim`): so a worker meets it for certain, and in
whichever process the step happens to run.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Expected = Literal["job", "no_job"]


@dataclass(frozen=True)
class Kind:
    """A fault: what it is, who brings it about, and what must come of a rotation that meets it."""

    what: str
    by: Literal["nobody", "provider", "worker", "driver"]
    expected: Expected = "job"
    arguments: Mapping[str, Any] | None = None  # of a provider's fault: see simulator/faults.py


KINDS: Mapping[str, Kind] = {
    "none": Kind("nothing goes wrong", "nobody"),
    "rate_limit": Kind("429 of the first provider", "provider", arguments={"provider": "openai"}),
    "server_error": Kind("500 of the first provider", "provider", arguments={"provider": "openai"}),
    "everybody_down": Kind(
        "503 of all providers, once each", "provider", arguments={"name": "unavailable", "times": 3}
    ),
    "slow": Kind("no answer within the deadline", "provider", arguments={"provider": "openai", "seconds": 30}),
    "half_body": Kind("the connection drops in the answer", "provider", arguments={"provider": "openai"}),
    "drop": Kind("the connection drops before the answer", "provider", arguments={"provider": "openai"}),
    "not_a_completion": Kind("a page of HTML", "provider"),
    "malformed_json": Kind("an answer that is no JSON", "provider", "no_job"),
    "truncated_json": Kind("an answer that is cut off", "provider", "no_job"),
    "refusal": Kind("the model refuses", "provider", "no_job"),
    "wrong_window": Kind("an answer with a window of its own", "provider", "no_job"),
    "unknown_source": Kind("an answer that cites a line that was not given", "provider", "no_job"),
    "quota": Kind("the quota is used up: parked, then resumed", "provider"),
    "kill_before_model": Kind("kill -9 of the worker before the model call", "worker"),
    "kill_after_model": Kind("kill -9 after it, before anybody hears of it", "worker"),
    "kill_before_claim": Kind("kill -9 before the job is claimed", "worker"),
    "kill_after_claim": Kind("kill -9 after COMMIT, before anybody hears of it", "worker"),
    "answer_lost": Kind("the database's answer is lost after COMMIT", "worker"),
    "database_away": Kind("the database does not answer, three times", "worker"),
    "freeze": Kind("the claim freezes past its time; another is made; it wakes up", "worker"),
    "freeze_and_stop": Kind("the claim freezes, the rotation is cancelled, it wakes up", "worker", "no_job"),
    "asked_twice": Kind("ten starts at once with one id", "driver"),
}
SLOW = frozenset({"freeze", "freeze_and_stop", "kill_before_claim", "kill_after_claim", "kill_before_model"})


@dataclass(frozen=True)
class Operation:
    """One rotation to be asked for, and the fault that it meets."""

    number: int
    fault: str

    @property
    def account(self) -> str:
        """The account that it is about; nobody else's."""
        return f"acct_{self.number:06}-{self.fault}"

    @property
    def kind(self) -> Kind:
        """Of the fault."""
        return KINDS[self.fault]


def fault_of(account: str) -> str:
    """Return the fault that an account carries; `none` if it carries none."""
    name = account.partition("-")[2]
    return name if name in KINDS else "none"


def plan(count: int, seed: int, *, only: str | None = None) -> list[Operation]:
    """Return `count` operations in an order that `seed` gives; each fault is among them, if there is room for all."""
    chance, names = random.Random(seed), [only] if only else list(KINDS)
    # What kills a worker takes seconds; it is met less often than what only costs another request.
    weights = [1 if name in SLOW or name.startswith("kill") else 4 for name in names]
    drawn = names[:count] + chance.choices(names, weights, k=max(0, count - len(names)))
    chance.shuffle(drawn)
    return [Operation(number, name) for number, name in enumerate(drawn)]
