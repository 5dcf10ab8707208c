"""What may go wrong with one operation, and what must come of it all the same. A seed gives the same plan again.

An account carries its faults (`acct_000012-kill_after_claim`, `acct_000013-kill_after_claim+rate_limit`): so a worker
meets them for certain, and in whichever process the step happens to run.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Expected = Literal["job", "no_job", "either"]
Database = Literal["postgresql", "sqlite"]

STRICTER_LINE = "PROOF-2"  # of ten days, for the same stale key
WRONG_NO = '{"decision": "not_eligible", "rotation_window_days": null, "source_line_ids": [], "quotes": []}'
LAXER_LINE = '{"decision": "eligible", "rotation_window_days": 30, "source_line_ids": ["P-7"], "quotes": []}'


@dataclass(frozen=True)
class Kind:
    """A fault: what it is, who brings it about, and what must come of a rotation that meets it."""

    what: str
    by: Literal["nobody", "provider", "worker", "driver"]
    expected: Expected = "job"
    arguments: Mapping[str, Any] | None = None  # of a provider's fault: see lab/simulator/faults.py
    asked: Literal["rotation", "approval", "draft", "bulk"] = "rotation"
    lines: tuple[str, ...] = ("P-7",)  # under which it is asked
    always: bool = False  # whether the provider's fault lasts: an answer that comes once is asked for again
    on: Database | None = None  # None for both


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
    "trickle": Kind("an answer a byte at a time, past the deadline", "provider", arguments={"provider": "openai"}),
    "huge_body": Kind("8 MiB of blanks", "provider", arguments={"provider": "openai"}),
    "compressed": Kind("a gzip body of 64 MiB of blanks", "provider", arguments={"provider": "openai"}),
    "overloaded": Kind("the first provider reports overload", "provider", arguments={"provider": "openai"}),
    "status": Kind("an unknown status, with a page of HTML", "provider", arguments={"provider": "openai"}),
    "bad_request": Kind("400 of the first provider", "provider", arguments={"provider": "openai"}),
    "not_found": Kind("404: no such model", "provider", arguments={"provider": "openai"}),
    "too_large": Kind("413 of the first provider", "provider", arguments={"provider": "openai"}),
    "malformed_json": Kind("an answer that is no JSON", "provider", "no_job"),
    "truncated_json": Kind("an answer that is cut off", "provider", "no_job"),
    "refusal": Kind("the model refuses", "provider", "no_job"),
    "wrong_window": Kind("an answer with an invented window", "provider", "no_job"),
    "unknown_source": Kind("an answer that cites a line that was not given", "provider", "no_job"),
    "wrong_no": Kind(
        "every provider says no to a key that is due: a disagreement, approved by an operator",
        "provider",
        arguments={"name": "says", "content": WRONG_NO},
        always=True,
    ),
    "wrong_no_denied": Kind(
        "every provider says no to a key that is due: a disagreement, denied",
        "provider",
        "no_job",
        arguments={"name": "says", "content": WRONG_NO},
    ),
    "wrong_no_once": Kind(
        "the first provider says no to a key that is due, and the next does not",
        "provider",
        arguments={"name": "says", "content": WRONG_NO, "provider": "openai"},
    ),
    "laxer_line": Kind(
        "an answer that omits the stricter of two lines",
        "provider",
        "no_job",
        arguments={"name": "says", "content": LAXER_LINE},
        lines=("P-7", STRICTER_LINE),
    ),
    "context_window": Kind("an answer cut off where the context window ends", "provider", "no_job"),
    "content_filter": Kind("an answer that the content filter blocks", "provider", "no_job"),
    "quota": Kind("the quota is used up: parked, then resumed", "provider"),
    "spend_limit": Kind("a spend limit is reached: parked, then resumed", "provider"),
    "unauthorized": Kind("the key is not valid: parked, then resumed", "provider"),
    "kill_before_model": Kind("kill -9 of the worker before the model call", "worker"),
    "kill_before_grounding": Kind("kill -9 after the call, before its answer is judged", "worker"),
    "kill_after_model": Kind("kill -9 after both, before the result is reported", "worker"),
    "kill_before_claim": Kind("kill -9 before the job is claimed", "worker"),
    "kill_after_insert": Kind("kill -9 after INSERT, before COMMIT", "worker", on="sqlite"),
    "kill_after_claim": Kind("kill -9 after COMMIT, before the result is reported", "worker"),
    "answer_lost": Kind("the database's answer is lost after COMMIT", "worker"),
    # A claim is one statement that commits by itself on PostgreSQL: it arrives or not, and its answer does or not.
    "cut_before_commit": Kind("the connection breaks before the claim arrives", "worker", on="postgresql"),
    "cut_after_commit": Kind("the connection breaks before the claim's answer arrives", "worker", on="postgresql"),
    "half_open": Kind("the claim arrives, and its connection says nothing for 12 s", "worker", on="postgresql"),
    "deadlock": Kind("the database ends the claim for a deadlock, twice", "worker", on="postgresql"),
    "serialization": Kind("the database cannot serialize the claim, twice", "worker", on="postgresql"),
    "database_away": Kind("the database does not answer, three times", "worker"),
    "freeze": Kind("the claim freezes past its timeout; another attempt claims; it wakes up", "worker"),
    "freeze_and_stop": Kind("the claim freezes, the rotation is cancelled, it wakes up", "worker", "either"),
    "freeze_and_ask": Kind("the same, and the rotation is asked for again before it wakes up", "worker"),
    "asked_by_many": Kind("fifty starts at once with one ID", "driver"),
    "asked_again": Kind("asked again after the job is created, with evidence of that time", "driver"),
    "reset": Kind("the workflow is reset to its start after the job is created", "driver"),
    "approved": Kind("awaits an approval; all workers are killed as it arrives", "driver", asked="approval"),
    "denied": Kind("awaits an approval, and is denied", "driver", "no_job", asked="approval"),
    "draft": Kind("a draft, streamed", "nobody", "no_job", asked="draft"),
    "draft_killed": Kind("a draft whose worker is killed -9 in mid-stream", "worker", "no_job", asked="draft"),
    "draft_hangs": Kind("a draft whose stream falls silent", "provider", "no_job", {"name": "hang"}, "draft"),
    "draft_breaks": Kind("a draft whose stream breaks off", "provider", "no_job", {"name": "broken_stream"}, "draft"),
    "draft_stopped": Kind("a draft that is stopped in mid-stream", "driver", "no_job", asked="draft"),
    "bulk": Kind("a run of eight keys, most with a fault of their own", "driver", asked="bulk"),
}
FROZEN = frozenset({"freeze", "freeze_and_stop", "freeze_and_ask"})
# From this number on, no process is killed or cut off and no call is late: there the ledger must agree to the token.
CALM = 900_000
# A call of 3 s lets a silent provider be skipped in two, so that the proof waits for faults and not for timeouts.
CALL_SECONDS, CALM_CALL_SECONDS = 3.0, 10.0
# What takes half a minute, or the machine's whole attention, is met less often than what only costs another request.
SELDOM = frozenset({"freeze", "freeze_and_stop", "freeze_and_ask", "half_open", "approved", "bulk", "asked_by_many"})
# What may come together with a worker's fault: a call that costs another one first. Not what ends at the provider, and
# not what waits for a person.
TOGETHER = tuple(
    name
    for name, kind in KINDS.items()
    if kind.by == "provider" and kind.expected == "job" and "resumed" not in kind.what and not kind.always
)
# What the keys of a run meet, each its own.
OF_A_RUN = (
    *("none", "kill_after_claim", "answer_lost", "database_away"),
    *("kill_before_claim", "none", "kill_after_model", "none"),
)


@dataclass(frozen=True)
class Operation:
    """One rotation to be asked for, and the fault that it meets."""

    number: int
    fault: str
    also: str = ""  # a provider's, beside it

    @property
    def account(self) -> str:
        """The account that it is about; no other operation uses it."""
        return f"acct_{self.number:06}-{self.fault}" + (f"+{self.also}" if self.also else "")

    @property
    def accounts(self) -> list[str]:
        """Every account that it is about: of a run, one a key."""
        if self.kind.asked != "bulk":
            return [self.account]
        return [f"acct_{self.number:06}_{key}-{fault}" for key, fault in enumerate(OF_A_RUN)]

    @property
    def traces(self) -> list[str]:
        """The ids under which its calls are known to provider and ledger."""
        if self.kind.asked != "bulk":
            return [f"trace_{self.number:06}"]
        return [f"{self.run_id}-{ordinal}" for ordinal in range(1, len(OF_A_RUN) + 1)]

    @property
    def call_seconds(self) -> float:
        """How long a model call of it may take."""
        return CALM_CALL_SECONDS if self.number >= CALM else CALL_SECONDS

    @property
    def run_id(self) -> str:
        """The name of its run, if it is one."""
        return f"proof-{self.number:06}"

    @property
    def kind(self) -> Kind:
        """Of the fault."""
        return KINDS[self.fault]


def fault_of(account: str) -> str:
    """Return the fault that an account carries for its worker; `none` if it carries none."""
    name = account.partition("-")[2].partition("+")[0]
    return name if name in KINDS else "none"


def plan(count: int, seed: int, database: Database, *, only: str | None = None) -> list[Operation]:
    """Return `count` operations in an order that `seed` gives; each fault is among them, if there is room for all.

    Where there is not, those of providers are left out first: no database makes them different.
    """
    here = [name for name, kind in KINDS.items() if kind.on in {None, database}]
    here.sort(key=lambda name: KINDS[name].by == "provider")
    chance, names = random.Random(seed), [only] if only else here
    weights = [1 if name in SELDOM else 2 if "kill" in name else 8 for name in names]
    drawn = names[:count] + chance.choices(names, weights, k=max(0, count - len(names)))
    chance.shuffle(drawn)
    if "bulk" in drawn:  # a run takes a minute: a short proof would wait for it at its end
        drawn.insert(0, drawn.pop(drawn.index("bulk")))

    def also(name: str) -> str:
        """Every other fault of a worker comes with one of the provider's."""
        kind = KINDS[name]
        alone = kind.by != "worker" or kind.asked != "rotation" or chance.random() < 0.5
        return "" if alone else chance.choice(TOGETHER)

    return [Operation(number, name, also(name)) for number, name in enumerate(drawn)]
