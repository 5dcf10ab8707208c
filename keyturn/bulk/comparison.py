"""Two runs compared: which keys are due now and were not, which were and are not any more."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from keyturn.bulk.findings import DUE, UNDECIDED, is_due
from keyturn.bulk.store import Run

Key = tuple[str, str]  # account and key
# What a run says of a key: it is due; nothing is; it is due and exempt; or the run has not decided it.
Status = Literal["due", "settled", "waived", "open"]


@dataclass(frozen=True)
class Comparison:
    """What has changed since an earlier run.

    Attributes:
        run_id: of the earlier run.
        new: due now, and not then.
        still_due: due then and now.
        gone: due then, and now rotated, decided as not due, or in the inventory no more.
        waived: due then, and exempt now.
        undecided: due then, and not decided now: nothing is known of them.
        remarks: why the two can be compared in part only.
    """

    run_id: str
    new: frozenset[Key]
    still_due: frozenset[Key]
    gone: tuple[Key, ...]
    waived: int
    undecided: int
    remarks: tuple[str, ...] = ()

    def since(self, account_id: str | None, key_id: str | None) -> Literal["new", "unchanged"] | None:
        """Return whether a key is due for the first time, or still; None if it was not due in either run."""
        if (account_id, key_id) in self.still_due:
            return "unchanged"
        return "new" if (account_id, key_id) in self.new else None


async def statuses_of(items: AsyncIterator[Mapping[str, Any]]) -> Mapping[Key, Status]:
    """Return what a run's items say of each key."""
    return {(item["account_id"], item["key_id"]): _status(item) async for item in items if item["key_id"]}


def _status(item: Mapping[str, Any]) -> Status:
    if is_due(item):
        return "due"
    outcome = item["outcome"] or "not_asked"
    if outcome == "waived":
        return "waived"
    return "open" if outcome in UNDECIDED and outcome not in DUE else "settled"


def compare(earlier: Run, before: Mapping[Key, Status], run: Run, now: Mapping[Key, Status]) -> Comparison:
    """Return what has changed between the keys that were due in `earlier` and those that are due in `run`."""
    were = {key for key, status in before.items() if status == "due"}
    are = {key for key, status in now.items() if status == "due"}
    # Of an inventory that was not read to its end, a key that is absent may still come.
    absent: Status = "settled" if run.loaded else "open"
    ended = [(key, now.get(key, absent)) for key in were - are]
    return Comparison(
        run_id=earlier.run_id,
        new=frozenset(are - were),
        still_due=frozenset(are & were),
        gone=tuple(sorted(key for key, status in ended if status == "settled")),
        waived=sum(status == "waived" for _, status in ended),
        undecided=sum(status == "open" for _, status in ended),
        remarks=tuple(_remarks(earlier, run)),
    )


def _remarks(earlier: Run, run: Run) -> list[str]:
    found = []
    if earlier.source != run.source:
        found.append(
            f"Run {earlier.run_id} judged {earlier.source}, and this one {run.source}: a key may be new or gone "
            "because the inventories are of other estates."
        )
    if set(earlier.policy_lines) != set(run.policy_lines):
        lines = ", ".join(map(str, earlier.policy_lines)) or "none"
        found.append(f"Run {earlier.run_id} judged by other policy lines: {lines}.")
    found += [f"Run {one.run_id} has not completed." for one in (earlier, run) if one.ended_at is None]
    return found
