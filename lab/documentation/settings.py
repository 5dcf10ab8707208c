"""The reference of settings, from the pydantic models that read them."""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from keyturn.desk.settings import DeskSettings
from keyturn.executors import load_executors
from keyturn.jobs.executor import Executor, SecretTarget
from keyturn.lab.documentation.markdown import code, escape, page
from keyturn.llm.providers import load_providers
from keyturn.notices.routing import NotifySettings
from keyturn.notifications import load_channels
from keyturn.owners import OwnerSettings
from keyturn.snapshots.fetcher import Fetcher
from keyturn.snapshots.fetchers import load_fetchers
from keyturn.snapshots.rows import OwnerTagSettings
from keyturn.targets import load_targets
from keyturn.workers.codec_settings import CodecSettings
from keyturn.workers.executor_settings import ExecutorSettings
from keyturn.workers.jobs_settings import JobsSettings
from keyturn.workers.leaks_settings import LeaksSettings
from keyturn.workers.local_settings import LocalSettings
from keyturn.workers.retention_settings import RetentionSettings
from keyturn.workers.settings import Settings

# By the process that reads them.
MODELS: dict[str, tuple[type[BaseSettings], str]] = {
    "Worker": (Settings, "`keyturn worker` reads them at start, and reports every fault at once."),
    "Retention": (RetentionSettings, "Workers and `keyturn retention` read them."),
    "Owners of keys": (OwnerSettings, "Workers, the desk and `keyturn report` read them."),
    "Snapshots": (OwnerTagSettings, "`keyturn inventory fetch`, and workers whose schedules fetch, read them."),
    "Notices": (NotifySettings, "Workers and `keyturn notify` read them."),
    "Executor": (ExecutorSettings, "`keyturn executor` also reads the settings that are common to all processes."),
    "Support desk": (DeskSettings, "`keyturn desk` also reads the settings that are common to all processes."),
    "Jobs API": (JobsSettings, "`keyturn jobs serve` also reads the settings that are common to all processes."),
    "Leak reports": (LeaksSettings, "`keyturn leaks` also reads the settings that are common to all processes."),
    "Codec server": (CodecSettings, "`keyturn codec` also reads the payload keys."),
}
COMMON = "Workers, the executor, the servers, and the commands that reach the database or Temporal read those of them that they need."
# What click reads, and no model.
CALLER = [
    ("KEYTURN_TENANT", "The tenant of a command, where no `--tenant` is given.", "text", "`default`"),
    (
        "KEYTURN_USER",
        "The name under which a command asks, approves or claims, where no `--user` is given.",
        "text",
        "the signed-in user",
    ),
]
_NAMES: list[tuple[Any, str]] = [
    (int, "whole number"),
    (float, "number"),
    (Decimal, "number"),
    (Path, "path"),
    (SecretStr, "secret"),
]
LIMITS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


def settings_page() -> str:
    """Return the page of every setting, with its default, its limits and what it means."""
    parts = [
        "Settings are environment variables, or lines of a file `.env` in the current folder; the environment takes precedence.\n"
        "A variable with an empty value is not set.\n"
        "A process checks all its settings when it starts, and repeats no secret in a message.",
        f"## Common to all processes\n\n{COMMON}\n\n{_settings_section(LocalSettings, of=None)}",
    ]
    for name, (model, note) in MODELS.items():
        parts.append(f"## {name}\n\n{note}\n\n{_settings_section(model, of=LocalSettings)}")
    parts.append(
        "## Providers\n\nA worker reads those of the providers that `KEYTURN_ROUTES` names.\n\n"
        + _entries(_of_providers())
    )
    for name, channel in load_channels().items():
        parts.append(
            f"## Notification channel `{name}`\n\nA worker reads them.\n\n{_settings_section(channel.settings, of=None)}"
        )
    for model, of in cloud_settings().items():
        parts.append(f"## {of}\n\n{_settings_section(model, of=None)}")
    parts += [
        "## Commands\n\nEvery command reads them if the option is not given.\n\n"
        + "\n\n".join(_entry(*setting) for setting in CALLER),
        "## Settings of others\n\n"
        "Temporal's own environment configuration says where Temporal is: `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, "
        "`TEMPORAL_API_KEY`, `TEMPORAL_TLS_CLIENT_CERT_PATH`, `TEMPORAL_TLS_CLIENT_KEY_PATH`, or a profile of a file by "
        "`TEMPORAL_PROFILE` and `TEMPORAL_CONFIG_FILE`.\n"
        "Executors and targets read credentials, regions and projects as the tools of AWS, Google and Microsoft do.\n"
        "Traces go where OpenTelemetry's own variables say, such as `OTEL_EXPORTER_OTLP_ENDPOINT`.",
    ]
    return page("Settings", *parts)


def setting_descriptions() -> dict[str, str]:
    """Return what is said of each setting, by its name; an empty text where nothing is."""
    models: list[type[BaseSettings]] = [LocalSettings, *(model for model, _ in MODELS.values())]
    models += [channel.settings for channel in load_channels().values()]
    models += cloud_settings()
    fields = [field for model in models for field in model.model_fields.values()]
    providers = {name: meaning for name, meaning, _, _ in _of_providers()}
    return {str(field.alias): _meaning(field) for field in fields} | providers


def cloud_settings() -> Mapping[type[BaseSettings], str]:
    """Return the settings of executors, targets and fetchers, each once, with the heading that says whose they are."""
    of: dict[type[BaseSettings], list[str]] = {}
    registered: list[tuple[str, Executor | SecretTarget | Fetcher]] = [
        *((f"Executor `{name}`", one) for name, one in load_executors().items()),
        *((f"target `{name}`", one) for name, one in load_targets().items()),
        *((f"fetcher `{name}`", one) for name, one in load_fetchers().items()),
    ]
    for heading, one in registered:
        if one.settings is not None:
            of.setdefault(one.settings(), []).append(heading)
    return {model: ", ".join(names)[:1].upper() + ", ".join(names)[1:] for model, names in of.items()}


def _of_providers() -> Iterator[tuple[str, str, str, str]]:
    """Yield each provider's variables: name, meaning, values and default."""
    for name, provider in load_providers().items():
        needed = "The" if provider.needs_key else "If its server wants one, the"
        yield provider.key_variable, f"{needed} API key of the provider `{name}`.", "secret", "not set"
        default = "not set" if provider.base_url is None else code(provider.base_url)
        below = provider.wire.path("MODEL")
        meaning = f"The base URL of the provider `{name}`; requests go to `{below}` below it."
        yield provider.url_variable, meaning, "URL", default


def _settings_section(model: type[BaseSettings], *, of: type[BaseSettings] | None) -> str:
    common = of.model_fields if of is not None and issubclass(model, of) else {}
    own = [field for name, field in model.model_fields.items() if name not in common]
    return "\n\n".join(_entry(str(field.alias), _meaning(field), _values(field), _default(field)) for field in own)


def _entries(settings: Iterable[tuple[str, str, str, str]]) -> str:
    return "\n\n".join(_entry(*setting) for setting in settings)


def _entry(name: str, meaning: str, values: str, default: str) -> str:
    """Return a setting under its own heading, so that a link can name it."""
    needed = "Required" if default == "required" else f"Default: {default}"
    return f"### `{name}`\n\n{escape(meaning)}\n\n{needed}. Values: {values}."


def _meaning(field: FieldInfo) -> str:
    return field.description or ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if default is None:
        return "not set"
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return code(default) or "empty"


def _values(field: FieldInfo) -> str:
    kinds = [kind for kind in _kinds(field.annotation) if kind is not type(None)]
    if kinds and get_origin(kinds[0]) is Literal:
        return ", ".join(code(choice) for choice in get_args(kinds[0]))
    kind = dict(_NAMES).get(kinds[0], "text") if kinds else "text"
    return ", ".join([kind, *_limits([*field.metadata])])


def _kinds(annotation: Any) -> Iterator[Any]:
    if hasattr(annotation, "__metadata__"):
        yield from _kinds(annotation.__origin__)
    elif get_origin(annotation) is Literal or not get_args(annotation):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _kinds(part)


def _limits(metadata: list[Any]) -> Iterator[str]:
    for limit in metadata:
        if type(limit) in LIMITS:
            sign, attribute = LIMITS[type(limit)]
            yield f"{sign} {getattr(limit, attribute):,}"
        elif isinstance(limit, MaxLen):
            yield f"at most {limit.max_length} characters"
        elif isinstance(limit, MinLen) and limit.min_length > 1:
            yield f"at least {limit.min_length} characters"
