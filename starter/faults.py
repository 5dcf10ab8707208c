"""Faults of a command's arguments, named by its options: the layers below name fields."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from keyturn.errors import InvalidRequest
from keyturn.faults import faults_of

T = TypeVar("T")
_OPTIONS = {
    "account_id": "--account",
    "approver": "--user",
    "max_retries": "--retries",
    "operator": "--user",
    "policies": "--policy",
    "policy_lines": "--policy",
    "run_id": "--name",
    "tenant_id": "--tenant",
    "timeout_seconds": "--timeout",
    "user_id": "--user",
}


_FACT = re.compile(r"\b(?:age_days|last_rotated_at|last_used_at|never_used|observed_at)\b")


@contextmanager
def naming_options(*, whole: str = "") -> Iterator[None]:
    """Turn what is wrong with fields, within, into an InvalidRequest that names the command's options.

    Args:
        whole: the field that a fault of several fields together is named by; empty leaves its words alone.
    """
    try:
        yield
    except ValidationError as error:
        faults = faults_of(error)
    except InvalidRequest as error:
        if not error.faults:
            raise
        faults = list(error.faults)
    else:
        return
    named = [(field or whole, reason) for field, reason in faults]
    raise InvalidRequest("; ".join(_in_options(field, reason) for field, reason in named))


def validate(build: Callable[[], T], *, whole: str = "") -> T:
    """Return what `build` makes of a command's arguments; raises InvalidRequest as `naming_options` does."""
    with naming_options(whole=whole):
        return build()


def _in_options(field: str, reason: str) -> str:
    if field == "credential":  # what several facts say together names them by their fields
        return _FACT.sub(lambda found: _option(found[0]), reason)
    return f"{_option(field)}: {reason}" if field else reason


def _option(field: str) -> str:
    first, *rest = field.split(".")
    name = rest[-1] if first == "credential" and rest else first
    return _OPTIONS.get(name, f"--{name.removesuffix('_at').replace('_', '-')}")


def validate_as(kind: Any, value: Any, option: str) -> Any:
    """Return an option's value as a contract's type wants it; raises InvalidRequest, which names the option.

    Args:
        kind: the type, such as `Reason`.
        value: what was given.
        option: its name in the command, such as `--reason`.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]["msg"]
        raise InvalidRequest(f"{option}: is not a plain line of text: {fault[:200]}") from None
