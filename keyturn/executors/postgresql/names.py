"""What a password of a role is called, and the line in the role's comment that says so.

A role of a pair is used again at every second rotation, so its name alone cannot be the ID of a key: a target takes the
same version for the same secret, and a job's trail would take an old password for a new one. So the ID of a password
that Keyturn set is the role's name and 12 random hexadecimal digits, `app_b.5f0c6a3e91d2`; that of any other one is
the role's name. An audit, which sees roles only, writes the bare name in both cases, and a job by that name is for the
password that the role has when the rotation starts.
"""

import re
import secrets
from datetime import UTC, datetime
from typing import NamedTuple

# A version that a target may cut to 64 characters (AWS Secrets Manager's ClientRequestToken) still is the whole ID.
LONGEST_ROLE = 51
_KEY_ID = re.compile(r"(?P<role>[A-Za-z0-9][A-Za-z0-9_-]*)(?:\.(?P<generation>[0-9a-f]{12}))?")
_MOMENT = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"  # as exact as the start of a session is dated
_LINE = re.compile(rf"keyturn: key=(\S+)(?: job=(\S+))?(?: created={_MOMENT})?(?: seen={_MOMENT})?")


def new_key_id(role: str) -> str:
    """Return the ID of a new password of a role."""
    return f"{role}.{secrets.token_hex(6)}"


def role_in(key_id: str) -> str:
    """Return the role that an ID names."""
    return key_id.partition(".")[0]


def is_generated(key_id: str) -> bool:
    """Return True if an ID is one of a password that Keyturn set."""
    found = _KEY_ID.fullmatch(key_id)
    return found is not None and found["generation"] is not None


class Mark(NamedTuple):
    """What Keyturn notes of a role's password, in one line of the role's comment.

    Attributes:
        key_id: the password's ID.
        job_id: the job that set it; None if Keyturn did not.
        created_at: when it was set, by the server's clock; None if that is not known.
        seen_at: when a session of the role was last seen during a rotation; None if none was.
    """

    key_id: str
    job_id: str | None = None
    created_at: datetime | None = None
    seen_at: datetime | None = None

    def line(self) -> str:
        """Return the line."""
        parts = [f"keyturn: key={self.key_id}"]
        parts += [f"job={self.job_id}"] if self.job_id is not None else []
        parts += [f"created={_text(self.created_at)}"] if self.created_at is not None else []
        parts += [f"seen={_text(self.seen_at)}"] if self.seen_at is not None else []
        return " ".join(parts)


def read_comment(comment: str | None, role: str) -> tuple[str | None, Mark | None]:
    """Return what others wrote into a role's comment, and Keyturn's mark.

    A line that looks like ours and names another role is someone's copy: it stays where it is, and means nothing.
    """
    if comment is None:
        return None, None
    others: list[str] = []
    mark: Mark | None = None
    for line in comment.split("\n"):
        found = _mark(line, role)
        mark = found or mark
        if found is None:
            others.append(line)
    return ("\n".join(others) or None), mark


def write_comment(others: str | None, mark: Mark | None) -> str | None:
    """Return a role's comment with Keyturn's mark as its last line; None if there is neither."""
    parts = [*([others] if others is not None else []), *([mark.line()] if mark is not None else [])]
    return "\n".join(parts) or None


def _text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"  # without a blank, as parts of the line are parted by them


def _mark(line: str, role: str) -> Mark | None:
    found = _LINE.fullmatch(line)
    if found is None or _KEY_ID.fullmatch(found[1]) is None or role_in(found[1]) != role:
        return None
    try:
        created, seen = (None if text is None else datetime.fromisoformat(text) for text in (found[3], found[4]))
    except ValueError:  # a 31st of February: no line of ours
        return None
    return Mark(found[1], found[2], created, seen)
