"""What is wrong between settings: each fault by the names of its variables."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from keyturn.errors import SettingsInvalid
from keyturn.llm.providers import load_providers
from keyturn.llm.routing import Target, parse_routes
from keyturn.notifications import load_channels
from keyturn.settings import faults_of_names, field_faults
from keyturn.tasks.registry import load_tasks
from keyturn.workers.endpoints import NamedEndpoints, read_endpoints

if TYPE_CHECKING:
    from keyturn.workers.settings import Settings

# Written into examples and used by the embedded stack: who runs production with it forgot to set the real one.
PLACEHOLDER_KEY = "dev_key_not_a_real_secret"
SIMULATED_MODELS = "simulator-"  # the simulator answers for models of this name only, so no setting can hide it


def faults_of_channels() -> Iterator[str]:
    """Yield what is wrong with the settings of each notification channel."""
    for channel in load_channels().values():
        try:
            channel.settings()
        except ValidationError as error:
            yield from field_faults(error)


def faults_across(given: Callable[[str], str]) -> Iterator[str]:
    """Faults that lie between settings, found although others may be wrong too."""
    yield from faults_of_names(given)
    named = NamedEndpoints()
    try:
        if given("KEYTURN_ENDPOINTS"):
            named = read_endpoints(Path(given("KEYTURN_ENDPOINTS")))
    except SettingsInvalid as error:
        yield from str(error).splitlines()
        return  # what the routes may name is not known
    try:
        routes = parse_routes(given("KEYTURN_ROUTES"), load_tasks(), [*load_providers(), *named.entries])
    except ValueError as error:
        yield f"KEYTURN_ROUTES: {error}"
        return
    targets = sorted({target for route in routes.values() for target in route})
    for provider in dict.fromkeys(target.provider for target in targets):
        if provider in named.entries:
            yield from named.faults_of(provider, os.environ)
            continue
        name = load_providers()[provider].required_variable
        if not given(name):
            yield f"{name} is not set: KEYTURN_ROUTES asks {provider}"
    if given("KEYTURN_ENVIRONMENT") == "production":
        yield from _faults_of_production(targets, named, given)


def _faults_of_production(
    targets: Sequence[Target], named: NamedEndpoints, given: Callable[[str], str]
) -> Iterator[str]:
    """What is for trying out, and nothing else."""
    for name in _placeholders(named, {target.provider for target in targets}, given):
        yield f"{name}: is the placeholder of the examples, which production refuses"
    if any(target.model.startswith(SIMULATED_MODELS) for target in targets):
        yield "KEYTURN_ROUTES: names the simulator's model, which production refuses"
    if given("DATABASE_URL").startswith("sqlite") or not given("DATABASE_URL"):
        yield "DATABASE_URL: production refuses SQLite: set postgresql://user:password@host/keyturn"


def _placeholders(named: NamedEndpoints, asked: set[str], given: Callable[[str], str]) -> list[str]:
    """Return the variables with the placeholder, of those that the asked endpoints read."""
    variables = {provider.key_variable for name, provider in load_providers().items() if name in asked}
    variables |= {entry.key_env for name, entry in named.entries.items() if name in asked and entry.key_env}
    return sorted(name for name in variables if given(name) == PLACEHOLDER_KEY)


def faults_of_values(settings: "Settings", *, unrouted: bool) -> Iterator[str]:
    """Yield what is wrong with files and texts that settings name; `unrouted` leaves out those of models."""
    checked = ["database_url"] if unrouted else ["database_url", "prices"]
    if settings.payload_keys or settings.payload_keys_file or settings.environment == "production":
        checked.insert(0, "keyring")  # in development, looking must not make the file
    for name in checked:
        try:
            getattr(settings, name)
        except SettingsInvalid as error:
            yield str(error)
            if name == "prices":
                return
    for target in () if unrouted else settings.targets:
        provider = load_providers().get(target.provider)
        # Whose models are in the public list: another one is a slip. Those of any other endpoint are its operator's.
        listed = provider is not None and provider.price_list is not None
        if listed and not settings.prices.knows(target.provider, target.model):
            yield (
                f"KEYTURN_ROUTES: {target.provider} has no known model {target.model!r}: fix it, or "
                f'add [models."{target.model}"] to the file that KEYTURN_RATE_CARD names'
            )


def setting_names(faults: list[str]) -> set[str]:
    """Return the variables that faults name."""
    return {fault.split(":")[0].split(" ")[0] for fault in faults}
