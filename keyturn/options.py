"""Types of options that several groups of commands share."""

import click
from click.shell_completion import CompletionItem


class InventoryFormat(click.ParamType[str]):
    """The name of an inventory source: the sources are loaded when one is named, not for `--help` of the program."""

    name = "format"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; a usage error if there is no such source."""
        names = _names_of_sources()
        if value not in names:
            self.fail(f"{value!r} is not one of {', '.join(map(repr, names))}.", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the names, as a choice shows them."""
        return f"[{'|'.join(_names_of_sources())}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names with this prefix."""
        return [CompletionItem(name) for name in _names_of_sources() if name.startswith(incomplete)]


def _names_of_sources() -> list[str]:
    from keyturn.inventory.sources import load_sources

    return list(load_sources())
