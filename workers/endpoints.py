"""The endpoints that routes may name: each provider's own, and those of the file KEYTURN_ENDPOINTS."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from keyturn.errors import SettingsInvalid
from keyturn.ledger.prices import Rate, price_lists
from keyturn.llm.bodies import OPTIONAL_FIELDS
from keyturn.llm.endpoint import Endpoint
from keyturn.llm.keys import FixedKey, KeySource, command_key, file_key
from keyturn.llm.provider import Provider
from keyturn.llm.providers import load_providers
from keyturn.llm.records import RULE
from keyturn.settings import http_url, is_one_word

# Records, metrics and the cache name an endpoint so.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")  # RFC 9110, 5.6.2
# Keyturn sets them: a second one would contradict the request, or carry the key past `key_...`.
_NOT_YOURS = {
    "host", "content-type", "content-length", "transfer-encoding", "connection", "accept", "accept-encoding",
    "x-client-request-id",
}  # fmt: skip
_SECRET_HEADER = re.compile(r"authorization|api-?key|subscription-?key|^key$|^sig$|token|secret|cookie", re.IGNORECASE)


# 1,000 dollars a million tokens is ten times the dearest model: more is a slip of the unit.
Price = Annotated[Decimal | None, Field(ge=0, le=1_000)]


class ModelEntry(BaseModel):
    """A table of prices: US dollars a million tokens, and the context window in tokens."""

    model_config = ConfigDict(extra="forbid")
    input: Price = None
    output: Price = None
    cached_input: Price = None
    cache_write: Price = None
    context_window: int | None = Field(default=None, ge=1)


def _header(name: str) -> str:
    if not _HEADER.fullmatch(name) or name.lower() in _NOT_YOURS:
        raise ValueError("is a header that cannot be set")
    return name.lower()


def _plain_header(name: str) -> str:
    if _SECRET_HEADER.search(name):
        raise ValueError("carries a secret: name its variable in headers_env, or the key in key_env and key_header")
    return _header(name)


def _parameter(name: str) -> str:
    if _SECRET_HEADER.search(name):
        raise ValueError("carries a secret, and proxies log addresses: use a header")
    return _text(name)


def _text(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("may hold printable ASCII only")
    return value


Header = Annotated[str, AfterValidator(_header)]
Text = Annotated[str, AfterValidator(_text)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


def _known_format(name: str) -> str:
    if name not in load_providers():
        raise ValueError(f"is none of {', '.join(load_providers())}")
    return name


class _EndpointEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    format: Annotated[str, AfterValidator(_known_format)]
    url: Annotated[str, AfterValidator(http_url)]
    key_env: Variable | None = None
    key_file: Path | None = None
    key_command: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1)
    key_header: Header | None = None
    headers: dict[Annotated[str, AfterValidator(_plain_header)], Text] = Field(default_factory=dict)
    headers_env: dict[Header, Variable] = Field(default_factory=dict)
    query: dict[Annotated[str, AfterValidator(_parameter)], Text] = Field(default_factory=dict)
    lacks: list[str] = Field(default_factory=list)
    calls_at_once: int | None = Field(default=None, ge=1, le=1_000)
    price_list: str | None = None
    batches: bool = False
    models: dict[str, ModelEntry] = Field(default_factory=dict)

    @property
    def provider(self) -> Provider:
        """Whose wire format it speaks."""
        return load_providers()[self.format]

    @property
    def has_key(self) -> bool:
        """Whether it is asked with a key."""
        return not (self.key_env is None and self.key_file is None and self.key_command is None)

    @model_validator(mode="after")
    def _expect_one_key(self) -> "_EndpointEntry":
        given = [name for name in ("key_env", "key_file", "key_command") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}: a key comes from one place")
        if not given and self.provider.needs_key:
            raise ValueError("has no key: set one of key_env, key_file, key_command")
        if "authorization" in self.headers_env and given:
            raise ValueError("has authorization in headers_env and a key: a key comes from one place")
        if twice := self.headers.keys() & self.headers_env.keys():
            raise ValueError(f"has the header {min(twice)} in headers and in headers_env")
        if unknown := sorted(set(self.lacks) - set(OPTIONAL_FIELDS)):
            raise ValueError(f"lacks {unknown[0][:48]!r}, which is none of {', '.join(OPTIONAL_FIELDS)}")
        if self.lacks and self.provider.wire.adapt is None:
            raise ValueError(f"lacks something: the format {self.format} has no field that can be left out")
        if self.batches and self.provider.batches is None:
            raise ValueError(f"has batches: the format {self.format} has none")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    endpoints: dict[str, _EndpointEntry]


@dataclass(frozen=True)
class NamedEndpoints:
    """What a file of endpoints says: each by its name, and what its models cost."""

    entries: Mapping[str, _EndpointEntry] = field(default_factory=dict)

    def faults_of(self, name: str, variables: Mapping[str, str]) -> Iterator[str]:
        """Yield what prevents an endpoint from being asked, a line each."""
        entry = self.entries[name]
        wanted = [("key_env", entry.key_env), *(("headers_env", one) for one in entry.headers_env.values())]
        for setting, variable in wanted:
            if variable is not None and not variables.get(variable):
                yield f"{variable} is not set: {setting} of [endpoints.{name}] names it, and KEYTURN_ROUTES asks {name}"
            elif variable is not None and not is_one_word(variables[variable]):
                yield f"{variable}: must be the key alone, without spaces or line breaks"

    def build(self, name: str, variables: Mapping[str, str]) -> Endpoint:
        """Return an endpoint that has no faults."""
        entry = self.entries[name]
        headers = {header: SecretStr(value) for header, value in entry.headers.items()}
        headers |= {header: SecretStr(variables[variable]) for header, variable in entry.headers_env.items()}
        return Endpoint(
            name,
            entry.provider,
            entry.url,
            _key_source(entry, variables, hidden=self._variables()),
            key_header=entry.key_header,
            headers=headers,
            query=entry.query,
            lacks=frozenset(entry.lacks),
            calls_at_once=entry.calls_at_once,
            takes_batches=entry.batches,
        )

    def _variables(self) -> set[str]:
        """Return the variables with any endpoint's secrets."""
        named = [(entry.key_env, *entry.headers_env.values()) for entry in self.entries.values()]
        own = {provider.key_variable for provider in load_providers().values()}
        return own | {name for names in named for name in names if name is not None}

    def rates(self) -> dict[str, dict[str, Rate]]:
        """Return prices and context windows by endpoint and model."""
        return {
            name: {model: Rate(**rate.model_dump()) for model, rate in entry.models.items()}
            for name, entry in self.entries.items()
        }

    def lists(self) -> dict[str, str]:
        """Return whose public prices count, by endpoint."""
        return {name: entry.price_list for name, entry in self.entries.items() if entry.price_list is not None}


@dataclass(frozen=True)
class OwnEndpoint:
    """A provider's own endpoint, set by the environment variables that it names."""

    provider: Provider
    url: str | None
    key: SecretStr | None

    def endpoint(self) -> Endpoint:
        """Return it as routes ask it."""
        key = FixedKey(self.key or SecretStr(""))
        takes_batches = self.provider.batches is not None
        return Endpoint(self.provider.name, self.provider, self.url or "", key, takes_batches=takes_batches)


def own_endpoints(variables: Mapping[str, str]) -> tuple[dict[str, OwnEndpoint], list[str]]:
    """Return each provider's own endpoint by name, and what is wrong with its variables, a line each."""
    found, faults = dict[str, OwnEndpoint](), list[str]()
    for name, provider in load_providers().items():
        url, key = variables.get(provider.url_variable), variables.get(provider.key_variable)
        if key and not is_one_word(key):
            faults.append(f"{provider.key_variable}: must be the key alone, without spaces or line breaks")
        try:
            found[name] = OwnEndpoint(
                provider, http_url(url) if url else provider.base_url, SecretStr(key) if key else None
            )
        except ValueError as error:
            faults.append(f"{provider.url_variable}: {error}")
    return found, faults


def read_endpoints(file: Path) -> NamedEndpoints:
    """Return the endpoints of a TOML file of `[endpoints.NAME]` tables (docs/reference/endpoints-file.md).

    Raises:
        SettingsInvalid: a line a fault; no value is repeated.
    """
    try:
        entries = _File.model_validate(tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)).endpoints
    except ValidationError as error:
        lines = "\n".join(_fault(file, item["loc"], item["msg"]) for item in error.errors())
        raise SettingsInvalid(lines) from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsInvalid(f"KEYTURN_ENDPOINTS: {file} cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid(f"KEYTURN_ENDPOINTS: {file} is not TOML: {error}") from None
    except (ValueError, ArithmeticError):
        raise SettingsInvalid(f"KEYTURN_ENDPOINTS: {file} holds a number that is none") from None
    faults = [_fault(file, ("endpoints", name), reason) for name, reason in _name_faults(entries)]
    if any(entry.price_list for entry in entries.values()):
        known = price_lists()
        for name, entry in entries.items():
            if entry.price_list is not None and entry.price_list not in known:
                reason = f"is none of {', '.join(sorted(known))}"
                faults.append(_fault(file, ("endpoints", name, "price_list"), reason))
    if faults:
        raise SettingsInvalid("\n".join(faults))
    return NamedEndpoints(entries)


def _name_faults(entries: Mapping[str, _EndpointEntry]) -> Iterator[tuple[str, str]]:
    for name in entries:
        if name in load_providers() or name == RULE:
            yield name, "has settings of its own, or is reserved: choose another name"
        elif not _NAME.fullmatch(name):
            yield name, "is no name: up to 32 of a-z, 0-9 and -, a letter first"


def _key_source(entry: _EndpointEntry, variables: Mapping[str, str], *, hidden: set[str]) -> KeySource:
    if entry.key_file is not None:
        return file_key(entry.key_file)
    if entry.key_command is not None:
        return command_key(entry.key_command, hidden=hidden)
    return FixedKey(SecretStr(variables[entry.key_env] if entry.key_env is not None else ""))


def _fault(file: Path, location: tuple[int | str, ...], message: str) -> str:
    place = ".".join(str(part)[:48] for part in location if part != "[key]")
    return f"KEYTURN_ENDPOINTS: {file}: {place}: {message.removeprefix('Value error, ')}"
