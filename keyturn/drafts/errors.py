"""A draft that is written while it is read."""

from keyturn.errors import KeyturnError


class DraftError(KeyturnError):
    """A draft that is written while it is read."""

    kind = "draft_error"


class DraftTakenOver(DraftError):
    """A later attempt writes this draft, or it has ended: what an earlier one still says counts no more."""

    kind = "draft_taken_over"
    hint = "Nothing is to be done: the later attempt goes on."


class UnknownDraft(DraftError):
    """There is no draft of this id, or it is another tenant's, or it was kept for its week."""

    kind = "unknown_draft"
    next_step = "fail_and_fix_request"
    hint = "Ask for another draft: they are kept for seven days."
