"""The reference of errors, from every class below `KeyturnError`."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import keyturn
from keyturn import errors
from keyturn.lab.documentation.markdown import code, escape, page, table

# Nothing there that a user meets, and modules that only run within a tool.
NOT_THE_PROGRAM = ("keyturn.lab.", "keyturn.migrations.")
LEAD = """\
Each failure that Keyturn foresees is a class with a `kind`: commands print it, problem details and the jobs API have it, and it is the error type in Temporal's history.
A message repeats no question, prompt, answer or secret.

*Retried* says whether the same attempt is repeated by itself.
*Parks* says whether a rotation waits for an operator who fixes the error, instead of failing.
"""

# Reasons that no class states: a workflow gives them, to who decides or as why it waits or has ended.
REASONS = {
    "abandoned": "An operator abandoned the parked rotation: it has ended without a job.",
    "answer_to_another_request": "The recorded answer is of another request: check who can write to Temporal, and ask again.",
    "approval": "The rotation waits for an approver.",
    "approval_expired": "No approver decided in time: the rotation has ended, and is asked for again.",
    "consumers_not_moved": "Declared consumers have not reported the new key, or rollouts are not complete.",
    "disagreement": "The rotation waits for an approver: rule and models read the evidence differently.",
    "disagreement_expired": "No approver settled in time what rule and models read differently: ask again.",
    "invalid_request": "The command to the workflow is not of its form.",
    "key_use_unknown": "Nothing says whether the old key is in use: declare its consumers, or confirm by `keyturn advance`.",
    "never_settled": "Policy or evidence kept changing during the decision: ask again when they are stable.",
    "new_key_not_seen": "Nothing has used the new key: check that its consumers read it, or confirm by `keyturn advance`.",
    "no_answer": "An activity or child workflow gave no answer in time: see the worker's log.",
    "not_an_approver": "This user is no approver of the binding policy lines.",
    "not_running": "The run has ended, or is not in this state any more.",
    "not_waiting": "There is nothing to decide, resume or advance at this step.",
    "old_key_used_again": "The old key was used after its deactivation, and works again: move what uses it, then resume.",
    "other_rotation": "The workflow is of another key, line or asker than the one that was meant.",
    "own_request": "Who asked for a rotation cannot decide on it.",
    "parked_expired": "No operator resumed the rotation in time: it has ended with the error that parked it.",
    "older_evidence": "The evidence was observed before that of the pending decision: observe the key again first.",
    "exposed_before": "The key was reported as exposed, and this evidence does not say so: approve or deny what waits.",
    "same_evidence": "The evidence is the one that the pending decision was made from: observe the key again first.",
    "stale_digest": "The pending decision is another one than the one that was reviewed: review it again.",
    "unforeseen": "A failure that no class foresees: see the worker's log at this time.",
    "wait_protects": "Only the waits of a compromised key can be cut short.",
}


def errors_page() -> str:
    """Return the page of every error, by family."""
    families = _families()
    parts = [LEAD.strip(), f"## At a glance\n\n{_summary()}"]
    for family in filter(_has_members, families):
        parts.append(f"## {family.__name__}\n\n{_about(family)}")
        parts += [f"### {error.__name__}\n\n{_about(error)}" for error in _below(family)]
    given = ((code(reason), escape(meaning)) for reason, meaning in sorted(REASONS.items()))
    parts.append(f"## Reasons that a workflow gives\n\n{table(('reason', 'meaning'), given)}")
    parts.append("## Others\n\nThese belong to no family.")
    parts += [f"### {error.__name__}\n\n{_about(error)}" for error in families if not _has_members(error)]
    return page("Errors", *parts)


def every_error() -> list[type[errors.KeyturnError]]:
    """Return every class of the tree below its root, families first."""
    return [one for family in _families() for one in (family, *_below(family))]


def _families() -> list[type[errors.KeyturnError]]:
    """Return the classes right below the root: a class is known once its module is imported, so all of them are."""
    for module in pkgutil.walk_packages(keyturn.__path__, "keyturn."):
        if not module.name.endswith("__main__") and not module.name.startswith(NOT_THE_PROGRAM):
            importlib.import_module(module.name)
    families = errors.KeyturnError.__subclasses__()
    return [
        one
        for one in families
        if f"{one.__module__}.".startswith("keyturn.") and not one.__module__.startswith(NOT_THE_PROGRAM)
    ]


def _has_members(error: type[errors.KeyturnError]) -> bool:
    return bool(error.__subclasses__())


def _below(error: type[errors.KeyturnError]) -> Iterator[type[errors.KeyturnError]]:
    for below in error.__subclasses__():
        yield below
        yield from _below(below)


def _summary() -> str:
    head = ("kind", "error", "retried", "parks", "next step")
    return table(
        head,
        (
            [
                code(error.kind),
                f"[{error.__name__}](#{error.__name__.lower()})",
                *_yes_or_no(error),
                code(error.next_step),
            ]
            for error in sorted(every_error(), key=lambda error: error.kind)
        ),
    )


def _yes_or_no(error: type[errors.KeyturnError]) -> list[str]:
    return ["yes" if value else "no" for value in (error.retryable, error.parks)]


def _about(error: type[errors.KeyturnError]) -> str:
    retried, parks = _yes_or_no(error)
    hint = "stated with each error." if "self.hint = " in inspect.getsource(error) else escape(error.hint)
    facts = f"Kind: {code(error.kind)}. Retried: {retried}. Parks: {parks}. Next step: {code(error.next_step)}."
    return f"{inspect.cleandoc(error.__doc__ or '')}\n\n{facts}\n\nHint: {hint}"
