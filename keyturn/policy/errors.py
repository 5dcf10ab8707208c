"""A policy that cannot be used, or is not the one that a decision was made under."""

from keyturn.errors import KeyturnError


class PolicyError(KeyturnError):
    """Something about the policy lines is wrong."""

    kind = "policy_error"


class CatalogueInvalid(PolicyError):
    """A policy file cannot be used."""

    kind = "catalogue_invalid"
    hint = "Fix the named policy file."


class UnknownPolicyLine(PolicyError):
    """The catalogue has no such policy line, or not at this version."""

    kind = "unknown_policy_line"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Name a line of this catalogue; starter and worker need the same one (KEYTURN_POLICY_DIR)."


class PolicyDiffers(PolicyError):
    """The caller's policy lines are not those of this worker, although their versions are the same."""

    kind = "policy_differs"
    parks = True
    next_step = "fail_and_fix_policy"
    hint = (
        "Give callers and workers the same KEYTURN_POLICY_DIR (`keyturn policy list` prints the digest), and raise the "
        "version of a line that changed. Then repeat the same command: it continues under the wording of that time."
    )


class DigestMismatch(PolicyError):
    """The evidence and policy no longer support the decision: they changed since the verdict."""

    kind = "digest_mismatch"
    next_step = "fail_and_fix_request"
    hint = "Ask again: policy or evidence changed between the decision and the job."


class ApprovalInvalid(PolicyError):
    """The decision needs an approval, and the one that came with it is not valid."""

    kind = "approval_invalid"
    hint = "Ask again: an approval counts for one decision, by an approver of its policy line who did not ask."
