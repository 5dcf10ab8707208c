"""How a worker introduces itself to Temporal: its process, and check values of what starters must have as well.

`4711@host keys=1f2e3d4c5b6a,pseudonym:0a1b2c3d policy=9f8e7d6c5b4a`. Whoever sees the namespace may read it: a check
value is a digest of a random key, from which the key cannot be found.
"""

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from keyturn.keyring import Keyring

_FORM = re.compile(r"\S+ keys=(?P<keys>\S*) names=(?P<names>\S*) policy=(?P<policy>\S*)")
DIGITS = 12


@dataclass(frozen=True)
class WorkerChecks:
    """What a worker has: check values of its payload keys, of its pseudonyms, and of its policy lines."""

    keys: tuple[str, ...]  # the first one encrypts
    names: str
    policy: str


def checks_of(keyring: Keyring, policy_version: str) -> WorkerChecks:
    """Return the check values of a keyring and of a catalogue's version."""
    return WorkerChecks(
        keys=tuple(keyring.check_values.values()),
        # What a name becomes: it depends on the pseudonym key, and on whether names are written plain.
        names=keyring.name_of("keyturn-check").strip("~")[:DIGITS],
        policy=policy_version.rpartition(":")[2][:DIGITS],
    )


def identity_of(checks: WorkerChecks) -> str:
    """Return the identity by which a worker polls."""
    keys = ",".join(checks.keys)
    return f"{os.getpid()}@{socket.gethostname()} keys={keys} names={checks.names} policy={checks.policy}"


def read_identity(identity: str) -> WorkerChecks | None:
    """Return the check values in a worker's identity; None if it has none, as an older build's."""
    found = _FORM.fullmatch(identity)
    if found is None:
        return None
    return WorkerChecks(tuple(filter(None, found["keys"].split(","))), found["names"], found["policy"])


def differences(ours: WorkerChecks, theirs: Sequence[WorkerChecks]) -> list[str]:
    """Return what keeps this machine and the running workers apart, a phrase each."""
    found = []
    if any(ours.keys[0] not in one.keys for one in theirs):
        found.append("a worker does not have the payload key that encrypts here: it could not read a rotation")
    if any(one.keys and one.keys[0] not in ours.keys for one in theirs):
        found.append("a worker encrypts by a payload key that is not here: its outcomes could not be read")
    if any(one.names != ours.names for one in theirs):
        found.append("a worker writes account and key names otherwise (the key `pseudonym`, or KEYTURN_ACCOUNT_NAMES)")
    if any(one.policy != ours.policy for one in theirs):
        found.append("a worker has other policy lines: it refuses what is asked under lines that read otherwise")
    return found
