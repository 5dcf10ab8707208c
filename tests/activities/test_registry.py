"""What workers register: nothing that is defined is left out."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from temporalio import activity, workflow

import keyturn.activities
import keyturn.workflows
from keyturn.activities.registry import ACTIVITIES
from keyturn.workflows.registry import WORKFLOWS


def modules_of(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def classes_of(package: ModuleType) -> set[type]:
    return {
        one
        for module in modules_of(package)
        for _, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__
    }


def is_activity(member: Any) -> bool:
    return inspect.iscoroutinefunction(member) and activity._Definition.from_callable(member) is not None


def test_every_workflow_is_registered() -> None:
    """One that no worker knows would wait for ever."""
    defined = {one for one in classes_of(keyturn.workflows) if workflow._Definition.from_class(one) is not None}
    assert defined == set(WORKFLOWS)


def test_every_activity_of_every_class_is_registered() -> None:
    """One that no worker knows is tried until its workflow ends."""
    defined = {one for one in classes_of(keyturn.activities) if inspect.getmembers(one, is_activity)}
    assert defined == set(ACTIVITIES)
    for one in ACTIVITIES:
        holder: Any = object.__new__(one)
        named = {name for name, _ in inspect.getmembers(one, is_activity)}
        assert {method.__name__ for method in holder.activities} == named, one.__name__
