"""A draft that is written while it is read."""

from keyturn.errors import KeyturnError


class DraftError(KeyturnError):
    """A draft that is written while it is read."""

    kind = "draft_error"


class DraftTakenOver(DraftError):
    """A later attempt writes this draft, or the draft is closed: the earlier attempt changes nothing."""

    kind = "draft_taken_over"
    hint = "Nothing to do: the later attempt continues."


class UnknownDraft(DraftError):
    """There is no draft of this ID, it is another tenant's, or its retention has ended."""

    kind = "unknown_draft"
    next_step = "fail_and_fix_request"
    hint = "Ask for another draft: they are stored for KEYTURN_RETAIN_DRAFTS_DAYS, seven days unless it is set."
