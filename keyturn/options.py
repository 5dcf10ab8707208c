"""Types of options that several groups of commands share."""

import click
from click.shell_completion import CompletionItem


class _Registered(click.ParamType[str]):
    """The name of an extension: the kind is loaded when one is named, not for `--help` of the program."""

    def names(self) -> list[str]:
        """Return the names that are registered."""
        raise NotImplementedError

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; a usage error if nothing has it."""
        names = self.names()
        if value not in names:
            self.fail(f"{value!r} is not one of {', '.join(map(repr, names))}.", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the names, as a choice shows them."""
        return f"[{'|'.join(self.names())}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names with this prefix."""
        return [CompletionItem(name) for name in self.names() if name.startswith(incomplete)]


class InventoryFormat(_Registered):
    """The name of an inventory source."""

    name = "format"

    def names(self) -> list[str]:
        """Return the sources' names."""
        from keyturn.inventory.sources import load_sources

        return list(load_sources())


class FetcherName(_Registered):
    """The name of a fetcher, by the cloud that it reads."""

    name = "cloud"

    def names(self) -> list[str]:
        """Return the fetchers' names."""
        from keyturn.snapshots.fetchers import load_fetchers

        return list(load_fetchers())
