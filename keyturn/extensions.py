"""Where an extension is added: a module in its kind's package, or another distribution's entry point.

A kind (providers, inventory sources, notification channels, secret targets, executors) has a package in which each
module or folder defines one object, and a group of entry points by which other distributions add theirs, without a
fork: https://packaging.python.org/en/latest/specifications/entry-points/.
"""

import importlib
import pkgutil
import re
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Protocol, TypeVar

from keyturn.errors import ExtensionInvalid

# A name stands in settings (`NAME:MODEL`, `NAME:PLACE`), metrics and records: no mark of theirs may be in it.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_RESERVED = {"rule"}  # records say so where no model was asked


class Named(Protocol):
    """What every object of a kind has."""

    @property
    def name(self) -> str:
        """The name that settings, options and records call it by: unique in its kind."""
        ...


N = TypeVar("N", bound=Named)


def load_objects(package: ModuleType, attribute: str, kind: type[N], group: str) -> dict[str, N]:
    """Return every object of a kind by its name, the built-in ones first, in the order of their names.

    Args:
        package: the package in which each module or folder defines one.
        attribute: what each calls it, such as `PROVIDER`.
        kind: its class.
        group: the entry points that other distributions add theirs by, such as `keyturn.providers`.

    Raises:
        ExtensionInvalid: one cannot be imported, is no object of the kind, or has a name that is taken
            or that cannot be one.
    """
    found: dict[str, N] = {}
    for module in pkgutil.iter_modules(package.__path__):
        where = f"{package.__name__}.{module.name}"
        one = getattr(importlib.import_module(where), attribute, None)
        _add(found, one, kind, f"{where}:{attribute}")
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        _add(found, _load(point), kind, f"{point.value}, which {_distribution(point)} registers in {group}")
    return found


def _load(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:  # whatever another distribution's import raises
        raise ExtensionInvalid(
            f"{point.value}, which {_distribution(point)} registers in {point.group}, "
            f"cannot be imported: {type(error).__name__}"
        ) from error


def _add(found: dict[str, N], one: object, kind: type[N], where: str) -> None:
    if not isinstance(one, kind):
        raise ExtensionInvalid(f"{where}, is a {type(one).__name__}, not a {kind.__name__}")
    if not _NAME.fullmatch(one.name) or one.name in _RESERVED:
        raise ExtensionInvalid(
            f"{where}, has the name {one.name[:48]!a}: a name is up to 32 of a-z, 0-9 and -, a letter first, "
            f"and none of {', '.join(sorted(_RESERVED))}"
        )
    if one.name in found:
        raise ExtensionInvalid(f"{where}, has the name {one.name!r}, which is taken")
    found[one.name] = one


def _distribution(point: EntryPoint) -> str:
    return "a distribution" if point.dist is None else point.dist.name
