"""The reference of commands, from click's own help."""

from collections.abc import Iterator

import click

from keyturn.lab.documentation.markdown import block, page
from keyturn.starter.cli import COMMANDS, GROUPS, LazyGroup

WIDTH = 100


def commands_page() -> str:
    """Return the page of every command and subcommand, in the groups of `keyturn --help`."""
    root = LazyGroup("keyturn")
    parts = [
        "`keyturn COMMAND --help` prints the same.\n"
        "What exit statuses mean, and the one object of `--json`, is in the [README](../project/readme.md#for-scripts)."
    ]
    with click.Context(root, info_name="keyturn") as context:
        for title, commands in GROUPS.items():
            parts.append(f"## {title}")
            for name in commands:
                command = root.get_command(context, name)
                if command is not None:
                    parts += _sections(command, context, name)
    return page("Commands", *parts)


def _sections(command: click.Command, parent: click.Context, name: str) -> Iterator[str]:
    context = click.Context(
        command, info_name=name, parent=parent, max_content_width=WIDTH, terminal_width=WIDTH,
        help_option_names=["-h", "--help"],
    )  # fmt: skip
    with context:
        summary = COMMANDS[name][2] if context.parent is parent and parent.parent is None else ""
        yield "\n\n".join(filter(None, [f"### {context.command_path}", summary, block(command.get_help(context))]))
        if isinstance(command, click.Group):
            for sub in command.list_commands(context):
                found = command.get_command(context, sub)
                if found is not None and not found.hidden:
                    yield from _sections(found, context, sub)
