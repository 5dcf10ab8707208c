"""What is refused about reports of exposed keys."""

from keyturn.errors import KeyturnError


class UnknownKey(KeyturnError):
    """No inventory and no job names the key, so that no one knows whose it is."""

    kind = "unknown_key"
    next_step = "fail_and_fix_request"
    hint = "Name its account (--account, --kind), or judge an inventory that lists it (`keyturn bulk`)."


class NoExposureLine(KeyturnError):
    """No policy line says that an exposed key of this kind must be rotated."""

    kind = "no_exposure_line"
    next_step = "fail_and_fix_request"
    hint = 'Add a policy line with when = "compromised" for this kind (docs/how-to/write-a-policy-line.md).'


class ReportForged(KeyturnError):
    """A report is not signed by whom it says: nothing was done."""

    kind = "report_forged"
    hint = "Only reports that are signed by a key of KEYTURN_LEAKS_PUBLIC_KEYS are taken: check who sends it."


class PublicKeysUnavailable(KeyturnError):
    """The keys that reports are signed by cannot be read now; the report is sent again."""

    kind = "public_keys_unavailable"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Let this machine reach KEYTURN_LEAKS_PUBLIC_KEYS, or name a file there that holds the keys."
