"""What is refused about labelled cases and requirements."""

from keyturn.errors import InvalidRequest, KeyturnError


class NoLabels(KeyturnError):
    """There is no labelled case to replay: nothing was measured, and no requirement holds."""

    kind = "no_labels"
    hint = "`keyturn labels collect` reads what people decided; `keyturn labels` counts it."


class RequirementUnreadable(InvalidRequest):
    """The requirement has another form than NAME<=NUMBER."""

    kind = "requirement_unreadable"
    next_step = "fail_and_fix_request"
    hint = 'Write it as in --require "wrong_yes<=0.001".'
