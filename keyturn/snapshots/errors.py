"""A snapshot that was not written."""

from keyturn.errors import KeyturnError


class SnapshotError(KeyturnError):
    """An inventory could not be read from its cloud; what was read of it is stored for the next attempt."""

    kind = "snapshot_error"
    next_step = "fail_and_fix_request"


class SnapshotIncomplete(SnapshotError):
    """Some parts of the inventory, such as accounts or projects, could not be read: no snapshot was written."""

    kind = "snapshot_incomplete"
    hint = (
        "Give the rights that docs/how-to/fetch-an-inventory.md lists, or wait until the cloud answers; then run the "
        "same command again: it reads only what is missing. With --allow-missing the snapshot is written without it, "
        "and its manifest names it."
    )


class SnapshotSmaller(SnapshotError):
    """There are over a fifth fewer keys than in the last snapshot, or none in an account that had some; it is kept."""

    kind = "snapshot_smaller"
    hint = (
        "Find out why: an account that left the list, a right that was taken away. If the figure is right, run the "
        "command again with --expect-fewer: nothing is read twice. Without it, everything is read again."
    )


class SnapshotEmpty(SnapshotError):
    """The inventory has no key at all: an empty snapshot would let every key look rotated."""

    kind = "snapshot_empty"
    hint = "Look at which accounts, projects or namespaces are read, and by whose rights; then run the command again."


class SnapshotUnwritable(SnapshotError):
    """The snapshot, or what was read of it, cannot be written: the last snapshot is unchanged."""

    kind = "snapshot_unwritable"
    hint = (
        "Create the folder, give the right to write in it, or make room on the disk; then run the same command again: "
        "it reads only what is missing."
    )


class AnotherSnapshot(SnapshotError):
    """The file is the snapshot of another cloud, which would be lost."""

    kind = "another_snapshot"
    hint = "Give another --out: each cloud has a snapshot of its own."


class FetchRunning(SnapshotError):
    """Another process is fetching the same snapshot."""

    kind = "fetch_running"
    hint = "Wait until it has finished, or give another --out."


class CloudAnswerInvalid(SnapshotError):
    """A cloud's answer has another form than its documents say: nothing of the part is used."""

    kind = "cloud_answer_invalid"
    hint = "Look for a proxy in between; report it as a bug if there is none. --allow-missing leaves the part out."


class CursorInvalid(SnapshotError):
    """The cloud does not take the place of a page any more: its listing is read again from its first page."""

    kind = "cursor_invalid"
    hint = "Run the same command again with --restart."
