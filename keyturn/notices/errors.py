"""What is wrong with notices and where they go."""

from keyturn.errors import KeyturnError
from keyturn.jobs.errors import DeliveryError


class RoutesInvalid(KeyturnError):
    """The file of routes cannot be used: no notice would reach those who wait for it."""

    kind = "routes_invalid"
    next_step = "fail_and_fix_request"
    hint = (
        "Fix the file of KEYTURN_NOTIFY, or the channels' settings (docs/how-to/notify.md); `keyturn notify test` "
        "sends a notice by each of its routes."
    )


class IssueGone(DeliveryError):
    """The tracker does not know the issue any more: it was deleted, or is hidden from Keyturn's user."""

    kind = "issue_gone"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "The next attempt opens another issue for the job; if one is there, let Keyturn's user see it."


class UnknownMessage(DeliveryError):
    """There is no message of this ID, or its retention has ended."""

    kind = "unknown_message"
    hint = "`keyturn deliveries` lists the messages that did not come through."
