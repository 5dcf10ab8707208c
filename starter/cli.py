"""The command line `keyturn`. A command's module is imported when it is run, so that `--help` answers at once.

The commands of the worker's side and of the embedded stack are found by name: this package must start without a
database driver or a provider, and so it may not import them.
"""

import importlib
import json
import sys
from difflib import get_close_matches

import click

from keyturn.console import run_and_leave
from keyturn.errors import KeyturnError

Command = tuple[str, str, str]  # its module, its name there, and what it does

# By what a person wants to do, the most used first.
GROUPS: dict[str, dict[str, Command]] = {
    "Rotate": {
        "rotate": (
            "keyturn.starter.rotate",
            "rotate",
            "Ask whether a key may be rotated, and create its one job if so.",
        ),
        "list": ("keyturn.starter.listing", "list_rotations", "List rotations by state, account, key or policy line."),
        "status": ("keyturn.starter.follow", "status", "Show the status of a rotation, run, job or draft."),
        "watch": ("keyturn.starter.watch", "watch", "Follow a rotation, run, job or draft until it completes."),
        "cancel": ("keyturn.starter.follow", "cancel", "Cancel a rotation, run, job or draft."),
        "explain": (
            "keyturn.starter.explain",
            "explain",
            "Show what was asked, answered and decided, from the record.",
        ),
        "draft": ("keyturn.starter.desk", "draft", "Draft a reply and show it as it is written."),
        "ask": ("keyturn.starter.records", "ask", "Ask a model one task, once, without a workflow."),
    },
    "Exposed keys": {
        "compromised": ("keyturn.starter.compromised", "compromised", "Report an exposed key, and rotate it at once."),
        "leaks": ("keyturn.starter.compromised", "leaks", "Serve the webhook for leak reports."),
    },
    "Inventory": {
        "bulk": ("keyturn.starter.bulk", "bulk", "Judge every key of an inventory."),
        "runs": ("keyturn.starter.runs", "runs", "List bulk runs; pause, resume or cancel one."),
        "schedule": (
            "keyturn.starter.schedules",
            "schedule",
            "Judge an inventory on a schedule: create, list, pause or delete one.",
        ),
        "report": ("keyturn.starter.report", "report", "Report on a bulk run: a page, PDF, CSV, JSON or SARIF."),
        "inventory": ("keyturn.starter.inventory", "inventory", "Fetch an inventory from a cloud, or check one."),
        "policy": (
            "keyturn.starter.policy",
            "policy",
            "List policy lines, check files, and compare two versions.",
        ),
    },
    "Decisions": {
        "desk": ("keyturn.starter.desk", "desk", "Serve the support desk: a page and a JSON API."),
        "parked": ("keyturn.starter.people", "parked", "List the rotations that wait for an operator or approver."),
        "approve": ("keyturn.starter.people", "approve", "Approve the decision of a rotation."),
        "deny": ("keyturn.starter.people", "deny", "Deny the decision of a rotation."),
        "resume": (
            "keyturn.starter.people",
            "resume",
            "Resume a parked rotation, or all of a kind.",
        ),
        "abandon": ("keyturn.starter.people", "abandon", "Abandon a parked rotation."),
    },
    "Jobs": {
        "jobs": ("keyturn.starter.jobs", "jobs", "List, claim and complete rotation jobs."),
        "executor": ("keyturn.starter.executor", "executor", "Run an executor: it rotates the keys of one cloud."),
        "targets": ("keyturn.starter.targets", "targets", "Check where new secrets go."),
        "freeze": ("keyturn.starter.freezes", "freeze", "Freeze rotations: no key is changed until it ends."),
        "thaw": ("keyturn.starter.freezes", "thaw", "End a freeze, or all."),
        "freezes": ("keyturn.starter.freezes", "freezes", "List the freezes that hold now."),
        "advance": (
            "keyturn.starter.people",
            "advance",
            "Confirm that nothing needs a job's old key.",
        ),
        "rollback": ("keyturn.starter.people", "rollback", "Restore the old key while it still exists."),
        "waivers": ("keyturn.starter.waivers", "waivers", "List, grant and end exemptions from rotation."),
        "notify": ("keyturn.starter.notify", "notify", "Preview and test the notices to people."),
        "deliveries": ("keyturn.starter.deliveries", "deliveries", "List dead letters, and resend them."),
    },
    "Records": {
        "audit": ("keyturn.starter.operate", "audit", "Show who did what with a rotation."),
        "calls": ("keyturn.starter.records", "calls", "List model calls, newest first."),
        "costs": ("keyturn.starter.records", "costs", "Sum the cost of model calls by task, model, user or day."),
        "cache": ("keyturn.starter.records", "cache", "Clear cached responses."),
        "labels": ("keyturn.starter.labels", "labels", "Count labelled cases: what people approved and denied."),
        "eval": ("keyturn.starter.evaluate", "evaluate", "Evaluate a model, prompt or policy on labelled cases."),
        "retention": ("keyturn.starter.retention", "retention", "Count or delete records that have expired."),
        "export": ("keyturn.starter.export", "export", "Export the audit trail, signed and chained, and verify it."),
    },
    "Operate": {
        "doctor": ("keyturn.starter.operate", "doctor", "Check settings, policy, keys, database and Temporal."),
        "worker": ("keyturn.starter.operate", "worker", "Run a worker."),
        "migrate": ("keyturn.starter.operate", "migrate", "Migrate the database's schema."),
        "namespace": (
            "keyturn.starter.operate",
            "namespace",
            "Add Keyturn's search attributes to the Temporal namespace.",
        ),
        "deployment": ("keyturn.starter.deployment", "deployment", "Show the workers' builds, and promote one."),
        "keys": ("keyturn.starter.codec", "keys", "Create payload keys, and list those of this machine."),
        "codec": ("keyturn.starter.codec", "codec", "Serve decrypted payloads to operators in the Temporal UI."),
    },
    "Develop": {
        "demo": ("keyturn.starter.develop", "demo", "Show rotations on an embedded stack, then stop the stack."),
        "dev": ("keyturn.starter.develop", "dev", "Run the embedded stack until Ctrl-C."),
        "prove": (
            "keyturn.lab.proof.__main__",
            "prove",
            "Prove, under faults, that each job is created exactly once.",
        ),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run; its help is written from the table alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the table's order, the most used first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; a wrong one is answered with the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1, cutoff=0.65)
            hint = f" Did you mean {near[0]!r}?" if near else " `keyturn --help` lists the commands."
            ctx.fail(f"No such command {args[0][:48]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; a failure is printed as the one JSON object as well, if that was asked for."""
        try:
            if any("\ud800" <= letter <= "\udfff" for word in sys.argv for letter in word):
                raise click.UsageError("an argument is not UTF-8")
            return super().invoke(ctx)
        except click.UsageError as error:
            failed = _all_that_is_missing(error) if isinstance(error, click.MissingParameter) else error
            _print_json("usage", failed.format_message(), "fail_and_fix_request")
            raise failed from None
        except KeyturnError as error:
            _print_json(error.kind, str(error), error.next_step)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table's summaries, by group."""
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                rows = [(name.ljust(width), summary) for name, (_, _, summary) in commands.items()]
                formatter.write_dl(rows)


def _all_that_is_missing(error: click.MissingParameter) -> click.UsageError:
    """Return the same error for every parameter that is missing: click names the first one alone.

    Those that were given are read before those that were not, and so they are in the context already.
    """
    ctx, first = error.ctx, error.param
    if ctx is None or first is None:
        return error
    others = [
        one
        for one in ctx.command.params
        if one.required and one is not first and one.name not in ctx.params and one.value_from_envvar(ctx) is None
    ]
    if not others:
        return error
    names = ", ".join(one.get_error_hint(ctx) for one in (first, *others))
    return click.UsageError(f"Missing: {names}.", ctx=ctx)


def _print_json(reason: str, explanation: str, next_step: str) -> None:
    if "--json" in sys.argv:
        output = {"workflow_id": None, "status": "failed", "reason": reason, "explanation": explanation}
        click.echo(json.dumps(output | {"next_step": next_step}))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keyturn", prog_name="keyturn")
def cli() -> None:
    """Decide with a language model whether a key may be rotated under a written policy, prove the decision against the
    evidence, and create exactly one rotation job.

    \b
    Examples:
      keyturn demo
      keyturn rotate --account acct_10234 --key-id key_01 --policy P-7 \\
        --stale --question "May the stale key be rotated?"

    TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_PROFILE and the like say where Temporal is.

    \b
    Exit status:
      0  completed: job_created, not_eligible, not_specified or waived
      1  failed; also job_created, where that job failed or was cancelled
      2  wrong usage
      3  rejected: the evidence does not support the model's answer
      4  timeout, or rate limited
      5  waits for an operator or approver

    \b
    Completion:
      eval "$(_KEYTURN_COMPLETE=bash_source keyturn)"   # or zsh_source
    """


def main() -> None:
    """Run `keyturn`; a foreseen failure ends in one message and a status, without a traceback."""
    run_and_leave(lambda: cli(prog_name="keyturn"))
