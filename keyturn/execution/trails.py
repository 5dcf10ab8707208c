"""What the trail of a key's rotation says: an execution reads there what it did before it was killed. Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self

from keyturn.execution.contracts import KeyState, KeyWaits
from keyturn.jobs.consumers import CONSUMER
from keyturn.jobs.contracts import Evidence

# What the executor itself wrote of a job, oldest first.
Trail = Sequence[Mapping[str, Any]]


def unanswered_tries(trail: Trail) -> list[datetime]:
    """Return when a key was asked for without an answer: it may have been created, and its secret is lost.

    An orphan whose answer came, and which was deleted as lost all the same, is none of these.
    """
    found: list[datetime] = []
    answered = {row["detail"]["created_key"] for row in trail if "created_key" in row["detail"]}
    for row in trail:
        detail = row["detail"]
        if detail.get("step") == "create_key":
            found.append(row["at"])
        elif found and (detail.get("step") == "key_not_created" or "created_key" in detail):
            found.pop()
        elif found and "deleting_orphan" in detail and detail["deleting_orphan"] not in answered:
            found.pop(0)
    return found


def is_of_user(trail: Trail, rotation: KeyState) -> bool:
    """Return whether a trail is of a key of the same user: a job may call its account in several ways."""
    named = {(row["detail"].get("cloud_account"), row["detail"].get("user")) for row in trail}
    return (rotation.cloud_account, rotation.user) in named


def named_keys(trail: Trail) -> set[str]:
    """Return the keys that the trail names as the execution's own."""
    names = ("created_key", "new_key_id", "deleting_orphan")
    return {str(row["detail"][name]) for row in trail for name in names if name in row["detail"]}


def created_keys(trail: Trail) -> set[str]:
    """Return the keys that the trail says were created and not deleted since."""
    deleted = {row["detail"].get("deleting_orphan") for row in trail}
    return {str(row["detail"]["created_key"]) for row in trail if "created_key" in row["detail"]} - deleted


def digest_of_held(key_id: str, job_id: str) -> str:
    """Return what a job's trail says of a key that a target held: where an ID should be, people have pasted the secret.

    Of the job, too: the same secret in two targets is not to be seen from two trails.
    """
    return hashlib.sha256(f"{job_id} {key_id}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def digests_held_before(trail: Trail) -> set[str]:
    """Return the digests of the keys whose secrets were in the targets before anything was stored there."""
    return {digest for row in trail for digest in str(row["detail"].get("held_before", "")).split()}


def deactivated_at_in(trail: Trail) -> datetime | None:
    """Return when an earlier run has deactivated the old key, if it was not activated since."""
    found = None
    for row in trail:
        if "deactivated" in row["detail"]:
            found = row["at"]
        elif {"activating", "activated"} & set(row["detail"]):
            found = None
    return found


def account_in(trail: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the cloud account that the job was started in; None before it was."""
    return next((str(row["detail"]["cloud_account"]) for row in trail if "cloud_account" in row["detail"]), None)


class Record(NamedTuple):
    """What a run writes down before it changes anything, and what every later run of the job goes by."""

    old: str
    created_at: datetime
    before: tuple[str, ...]
    targets: tuple[str, ...]
    consumers: tuple[str, ...]
    waits: KeyWaits

    def as_evidence(self) -> Evidence:
        """Return it as a row of the trail has it."""
        evidence = {"old_key_id": self.old, "old_created_at": self.created_at.isoformat()}
        evidence |= {"keys_before": ",".join(self.before), "waits": self.waits.model_dump_json()}
        evidence |= {f"target_{number:02}": path for number, path in enumerate(self.targets, 1)}
        return evidence | {f"{CONSUMER}{number:02}": name for number, name in enumerate(self.consumers, 1)}

    @classmethod
    def of_evidence(cls, detail: Evidence) -> Self:
        """Return what a row of the trail has; raises KeyError, ValueError for another row."""
        targets, consumers = (
            tuple(str(detail[name]) for name in sorted(detail) if name.startswith(kind))
            for kind in ("target_", CONSUMER)
        )
        return cls(
            old=str(detail["old_key_id"]),
            created_at=datetime.fromisoformat(str(detail["old_created_at"])),
            before=tuple(str(detail["keys_before"]).split(",")),
            targets=targets,
            consumers=consumers,
            waits=KeyWaits.model_validate_json(str(detail["waits"])),
        )


def record_in(trail: Trail) -> Record | None:
    """Return what the run has written down which was the first to create a key.

    None while no run has: then a changed key map, or another key of the user, counts for the next one.
    """
    found = None
    for row in trail:
        detail = row["detail"]
        if detail.get("step") == "create_key":
            return found
        if "keys_before" in detail:
            found = Record.of_evidence(detail)
    return None
