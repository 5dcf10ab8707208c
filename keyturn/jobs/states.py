"""The states of a rotation job, and which may follow which. Pure."""

from collections.abc import Mapping
from typing import Literal, get_args

JobState = Literal["open", "delivered", "claimed", "rotating", "verifying", "grace", "done", "failed", "cancelled"]
# What an executor may report on the way.
ProgressState = Literal["rotating", "verifying", "grace"]

CLOSED = ("done", "failed", "cancelled")
# Nothing rotates the key of such a job any more: who asks again gets another one.
ENDED_WITHOUT_ROTATION = ("failed", "cancelled")
# Of a purged job it is not known any more how it ended.
REPLACEABLE = (*ENDED_WITHOUT_ROTATION, "purged")
OPEN = tuple(state for state in get_args(JobState) if state not in CLOSED)
# As SQL: the partial indexes of the table must say the same as the migration that made them.
IS_OPEN = f"status IN ({', '.join(repr(state) for state in OPEN)})"

FOLLOWS: Mapping[str, frozenset[str]] = {
    # A job that was never claimed cannot have been executed.
    "open": frozenset({"delivered", "claimed", "cancelled"}),
    "delivered": frozenset({"claimed", "cancelled"}),
    "claimed": frozenset({"claimed", "rotating", "verifying", "grace", *CLOSED}),
    # A rotation that is taken over starts its step again: each step has an entry guard.
    "rotating": frozenset({"rotating", "verifying", "grace", *CLOSED}),
    "verifying": frozenset({"rotating", "verifying", "grace", *CLOSED}),
    "grace": frozenset({"grace", *CLOSED}),
    **dict.fromkeys(CLOSED, frozenset[str]()),
}

# What happens next to a job, for whoever looks at it.
NEXT: Mapping[str, str] = {
    "open": "It is delivered to its receivers, and an executor claims it.",
    "delivered": "An executor claims it.",
    "claimed": "Its executor creates the new key.",
    "rotating": "Its executor creates the new key, and stores it where its users read it.",
    "verifying": "Its executor checks that the new key works.",
    "grace": "The new key is in use. The old key is removed when its waiting time has passed.",
    "done": "Nothing: the new key is in use, and the old one is gone.",
    "failed": "Nothing by itself: fix the reason in the audit trail, then ask with --again for another job.",
    "cancelled": "Nothing: it was cancelled. Asking with --again creates another job.",
    "purged": "Nothing: its retention has ended, and only its tombstone is left.",
}
