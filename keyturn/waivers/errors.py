"""What is refused about waivers."""

from keyturn.errors import JobError, KeyturnError


class WaiverRefused(KeyturnError):
    """The waiver cannot be granted as it is: nothing was written."""

    kind = "waiver_refused"
    next_step = "fail_and_fix_request"
    hint = "Change what the message names, and grant it again."


class UnknownWaiver(KeyturnError):
    """There is no such waiver that holds now, or it is another tenant's."""

    kind = "unknown_waiver"
    next_step = "fail_and_fix_request"
    hint = "`keyturn waivers` lists those that hold now."


class KeyWaived(JobError):
    """A waiver exempts the key since its decision was made: no job is created, and it is decided anew."""

    kind = "key_waived"
    hint = "`keyturn waivers` shows it; when it ends, ask again."


class JobWaived(JobError):
    """A waiver exempts the key of a job: the executor leaves the job alone until it ends."""

    kind = "job_waived"
    hint = "`keyturn waivers` shows it, `keyturn waivers end` ends it, `keyturn jobs cancel` closes the job."
