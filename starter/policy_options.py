"""The options by which commands find policy lines, read as a worker reads the same variables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

_folder = click.option(
    "--policy-dir",
    envvar="KEYTURN_POLICY_DIR",
    type=click.Path(path_type=Path),
    help="Folder of your own policy lines.",
)
_shipped = click.option(
    "--shipped-lines",
    "shipped",
    envvar="KEYTURN_POLICY_SHIPPED",
    type=click.Choice(["on", "off"]),
    default="on",
    show_default=True,
    callback=lambda _context, _option, value: value == "on",
    help="Whether the shipped policy lines are loaded beside your own.",
)


def policy_options(command: C) -> C:
    """Give a command the options `policy_dir` and `shipped`, as `load_catalogue` takes them."""
    return _folder(_shipped(command))
