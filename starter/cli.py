"""The command line `keyturn`. A command's module is imported when it is run, so that `--help` answers at once.

The commands of the worker's side and of the embedded stack are found by name: this package must start without a
database driver or a provider, and so it may not import them.
"""

import importlib
import json
import sys

import click

from keyturn.console import run_and_leave
from keyturn.errors import KeyturnError

# name: (module, attribute, summary)
COMMANDS = {
    "rotate": ("starter.commands", "rotate", "Ask whether a key may be rotated, and create its one job if so."),
    "status": ("starter.commands", "status", "Say what a rotation is at, or how it ended."),
    "watch": ("starter.commands", "watch", "Follow a rotation step by step until it ends."),
    "parked": ("starter.people", "parked", "List the rotations that wait for a person."),
    "resume": ("starter.people", "resume", "Let a parked rotation try again, or all of a kind."),
    "abandon": ("starter.people", "abandon", "End a parked rotation."),
    "approve": ("starter.people", "approve", "Approve the decision that a rotation waits with."),
    "deny": ("starter.people", "deny", "Deny the decision that a rotation waits with."),
    "draft": ("desk.commands", "draft", "Draft a reply and show it as it is written."),
    "desk": ("desk.commands", "desk", "Serve the support desk: a page, and JSON."),
    "bulk": ("workers.bulk_commands", "bulk", "Judge every key of an inventory."),
    "runs": ("workers.runs_commands", "runs", "List bulk runs; pause, resume or cancel one."),
    "schedule": ("starter.schedules", "schedule", "Judge an inventory again and again: create, list, pause, delete."),
    "report": ("workers.runs_commands", "report", "Report on a bulk run, as a page, CSV or JSON."),
    "inventory": ("workers.inventory_commands", "inventory", "Look at an inventory before anything is asked."),
    "policy": ("starter.policy", "policy", "Look at policy lines, check files, and see what a change changes."),
    "jobs": ("workers.jobs_commands", "jobs", "List rotation jobs, and carry them out."),
    "executor": ("workers.executor_commands", "executor", "Carry out the rotation of AWS access keys."),
    "rollback": ("starter.people", "rollback", "Go back to the old access key while it is still there."),
    "deliveries": ("workers.delivery_commands", "deliveries", "List messages that were given up, and send them again."),
    "audit": ("workers.commands", "audit", "Show who did what with a rotation."),
    "calls": ("workers.ledger_commands", "calls", "List model calls, newest first."),
    "costs": ("workers.ledger_commands", "costs", "Sum what model calls cost, by task, model, user or day."),
    "ask": ("workers.ledger_commands", "ask", "Ask a model one task, once, without a workflow."),
    "cache": ("workers.ledger_commands", "cache", "Clear cached responses."),
    "doctor": ("workers.commands", "doctor", "Check that everything a rotation needs is there."),
    "worker": ("workers.commands", "worker", "Run a worker."),
    "migrate": ("workers.commands", "migrate", "Bring the database's schema up to date."),
    "explain": ("starter.explaining", "explain", "Say from the record what was asked, answered and decided, and why."),
    "deployment": ("starter.deployment", "deployment", "Show the worker's builds, and promote one."),
    "namespace": ("workers.commands", "namespace", "Add Keyturn's search attributes to the Temporal namespace."),
    "codec": ("workers.codec_commands", "codec", "Serve clear text of encrypted payloads to operators."),
    "keys": ("workers.codec_commands", "keys", "Print new payload keys, and tell which are held here."),
    "demo": ("stack.commands", "demo", "Show rotations on an embedded stack, then end."),
    "dev": ("stack.commands", "dev", "Run the embedded stack until Ctrl-C."),
    "prove": ("proof.__main__", "prove", "Prove on the embedded stack, under faults, that each job is made once."),
}


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

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; a failure is told as the one JSON object too, if that was asked for."""
        try:
            if any("\ud800" <= letter <= "\udfff" for word in sys.argv for letter in word):
                raise click.UsageError("an argument is not UTF-8")
            return super().invoke(ctx)
        except click.UsageError as error:
            _tell_json("usage", error.format_message(), "fail_and_fix_request")
            raise
        except KeyturnError as error:
            _tell_json(error.kind, str(error), error.next_step)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table's summaries."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in COMMANDS.items()])


def _tell_json(reason: str, explanation: str, next_step: str) -> None:
    if "--json" in sys.argv:
        output = {"workflow_id": None, "status": "failed", "reason": reason, "explanation": explanation}
        click.echo(json.dumps(output | {"next_step": next_step}))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keyturn", prog_name="keyturn")
def cli() -> None:
    """Decide with a language model whether a key may be rotated under a written policy, prove the decision against the
    evidence, and create exactly one rotation job.

    \b
    Try it:        keyturn demo
    For real:      keyturn rotate --account acct_10234 --key-id key_01 --policy P-7 \\
                     --stale --question "May the stale key be rotated?"

    Temporal is found by TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_PROFILE and the like.

    \b
    Exit status:   0 an accomplished outcome (job_created, not_eligible, not_specified)
                   1 failed     2 usage     3 rejected     4 timeout     5 waits for a person
    """


def main() -> None:
    """Run `keyturn`; a foreseen failure ends in one message and a status, without a traceback."""
    run_and_leave(lambda: cli(prog_name="keyturn"))
