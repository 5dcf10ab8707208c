"""Every setting of a worker, from the environment, checked at start with all faults in one message."""

import base64
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL

from keyturn.database import database_url
from keyturn.errors import SettingsInvalid
from keyturn.keyring import Keyring, load_keyring
from keyturn.ledger.prices import Rate, RateCard
from keyturn.llm.keys import FixedKey
from keyturn.llm.providers.endpoint import Endpoint
from keyturn.llm.routing import Target, parse_routes
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.tasks.registry import load_tasks
from workers.endpoints import WIRES, ModelEntry, NamedEndpoints, http_url, read_endpoints
from workers.tokens import parse_tokens

# Written into examples and used by the embedded stack: who runs production with it forgot to set the real one.
PLACEHOLDER_KEY = "dev_key_not_a_real_secret"
SIMULATED_MODELS = "simulator-"  # the simulator answers for models of this name only, so no setting can hide it
# What each required setting is for, told where it is missing.
_HINTS = {
    "KEYTURN_ROUTES": "the models to ask, such as openai:gpt-5-mini, anthropic:claude-haiku-4-5",
    "KEYTURN_CODEC_TOKENS": "who may decode, such as luna:TOKEN, the token of 32 letters or more",
}


def _alone(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if not secret or secret != secret.strip() or not secret.isascii() or not secret.isprintable():
        raise ValueError("must be the key alone, without blanks or line ends")
    return value


def _redis(value: SecretStr) -> SecretStr:
    from redis.asyncio.connection import parse_url  # only where there is one

    try:
        parse_url(value.get_secret_value())
    except ValueError:
        # Its own message may quote a part of the password.
        raise ValueError("is not redis://[:password@]host:port; a password's / and # are written %2F and %23") from None
    return value


def host_and_port(value: str) -> str:
    """Return `value` if it is HOST:PORT; raises ValueError."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError("is not HOST:PORT, such as 127.0.0.1:9464")
    return value


def _build(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("is not a build id of up to 64 letters, digits, . _ -, such as a git commit")
    return value


def _receiver(value: str) -> str:
    url = httpx.URL(http_url(value))
    if url.scheme != "https" and url.host not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError("is asked by https only, or by http on loopback")
    return value


def _webhook_keys(value: SecretStr) -> SecretStr:
    secrets = parse_tokens(value.get_secret_value())
    if len(secrets) > 2:
        raise ValueError("names more than two keys: one signs, or two while they are exchanged")
    for name, secret in secrets.items():
        text = secret.get_secret_value()
        try:
            if text.startswith("whsec_"):
                base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except ValueError:  # a receiver's library would read another secret than we do
            raise ValueError(f"the secret of {name} is whsec_ and no Base64 behind it, with its padding") from None
    return value


Key = Annotated[SecretStr, AfterValidator(_alone)]
BaseUrl = Annotated[str, AfterValidator(http_url)]


# Settings by their names of before, which are told for one release.
_RENAMED = {"KEYTURN_ANSWER_CACHE": "KEYTURN_RESPONSE_CACHE"}
# They are set by variables of their own; any other endpoint stands in the file KEYTURN_ENDPOINTS.
OWN_SETTINGS = ("openai", "anthropic", "gemini", "compatible")
# Whose models are in the public list: another one is a slip. Those of any other endpoint are its own.
_WITH_PUBLIC_MODELS = frozenset(OWN_SETTINGS) - {"compatible"}


# Names of fields are not accepted as variables: `MODEL` or `DATABASE` may mean something else on a machine. A variable
# that is set to nothing is not set: compose files write them so.
SETTINGS_FROM_ENVIRONMENT = SettingsConfigDict(
    extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True, case_sensitive=True
)


class LocalSettings(BaseSettings):
    """What needs no provider: where jobs, policies and work are. The field's alias is the variable's name."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    database: SecretStr = Field(
        default=SecretStr("sqlite:///.keyturn/keyturn.db"),
        alias="DATABASE_URL",
        description=(
            "The database of jobs, records and cached responses: postgresql://user:password@host/database, "
            "or sqlite:///PATH in development."
        ),
    )
    policy_dir: Path | None = Field(
        default=None,
        alias="KEYTURN_POLICY_DIR",
        description=(
            "The folder of your own policy files (*.toml), added to the shipped lines; starters, desks and "
            "workers need the same."
        ),
    )
    policy_shipped: Literal["on", "off"] = Field(
        default="on",
        alias="KEYTURN_POLICY_SHIPPED",
        description="Whether the shipped policy lines are loaded beside your own.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        alias="KEYTURN_LOG_FORMAT",
        description="The log's form: JSON lines, text, or auto: text where standard error is a terminal.",
    )
    task_queue: str = Field(
        default="keyturn",
        alias="KEYTURN_TASK_QUEUE",
        min_length=1,
        max_length=200,
        description="The task queue that workers poll; starters need the same.",
    )
    redis_url: Annotated[SecretStr, AfterValidator(_redis)] | None = Field(
        default=None,
        alias="KEYTURN_REDIS_URL",
        description=(
            "The Redis by which workers share token limits, cached responses and provider outages: "
            "redis://[:password@]host:port."
        ),
    )
    # Every command that reaches Temporal reads these three by `keyturn.keyring`; here, for the worker's own check.
    payload_keys: SecretStr | None = Field(
        default=None,
        alias="KEYTURN_PAYLOAD_KEYS",
        description=(
            "The keys that encrypt payloads: ID:BASE64 of 32 bytes each, by commas, the newest first, one of "
            "them `pseudonym`."
        ),
    )
    payload_keys_file: Path | None = Field(
        default=None,
        alias="KEYTURN_PAYLOAD_KEYS_FILE",
        description="The file of payload keys, an entry a line, instead of KEYTURN_PAYLOAD_KEYS; for its owner alone.",
    )
    account_names: Literal["pseudonym", "plain"] = Field(
        default="pseudonym",
        alias="KEYTURN_ACCOUNT_NAMES",
        description=(
            "Whether IDs and search attributes hold pseudonyms or plain names; choose once, because workflow "
            "IDs depend on it."
        ),
    )

    def load_catalogue(self) -> Catalogue:
        """Return the shipped policy lines and your own; raises CatalogueInvalid."""
        return load_catalogue(self.policy_dir, shipped=self.policy_shipped == "on")

    @cached_property
    def database_url(self) -> URL:
        """The database with the driver that we ship; raises SettingsInvalid."""
        return database_url(self.database.get_secret_value())


class Settings(LocalSettings):
    """A worker's settings."""

    environment: Literal["development", "production"] = Field(
        default="development",
        alias="KEYTURN_ENVIRONMENT",
        description="Production refuses the placeholder key, the simulator, SQLite and unencrypted payloads.",
    )
    routes_text: str = Field(
        alias="KEYTURN_ROUTES",
        description="The models to ask, in their order: ENDPOINT:MODEL, ENDPOINT:MODEL; or TASK = ROUTE; * = ROUTE.",
    )
    endpoints_file: Path | None = Field(
        default=None,
        alias="KEYTURN_ENDPOINTS",
        description="The TOML file of further model servers, in [endpoints.NAME] tables.",
    )

    openai_api_key: Key | None = Field(default=None, alias="OPENAI_API_KEY")
    openai_base_url: BaseUrl = Field(default="https://api.openai.com/v1", alias="OPENAI_BASE_URL")
    anthropic_api_key: Key | None = Field(default=None, alias="ANTHROPIC_API_KEY")
    anthropic_base_url: BaseUrl = Field(default="https://api.anthropic.com", alias="ANTHROPIC_BASE_URL")
    gemini_api_key: Key | None = Field(default=None, alias="GEMINI_API_KEY")
    gemini_base_url: BaseUrl = Field(
        default="https://generativelanguage.googleapis.com", alias="GOOGLE_GEMINI_BASE_URL"
    )
    compatible_api_key: Key | None = Field(default=None, alias="KEYTURN_COMPATIBLE_API_KEY")
    compatible_base_url: BaseUrl | None = Field(default=None, alias="KEYTURN_COMPATIBLE_BASE_URL")

    rate_card: Path | None = Field(
        default=None,
        alias="KEYTURN_RATE_CARD",
        description='The TOML file of your own prices, in US dollars a million tokens, in [models."NAME"] tables.',
    )
    usd_per_call: Decimal | None = Field(
        default=None,
        alias="KEYTURN_USD_PER_CALL",
        gt=0,
        description="The most that one model call may cost, in US dollars, in place of each task's own cap.",
    )
    usd_per_user_day: Decimal | None = Field(
        default=None,
        alias="KEYTURN_USD_PER_USER_DAY",
        gt=0,
        description="The most that one user may spend in a day (UTC), in US dollars.",
    )
    daily_spend_alert_usd: Decimal | None = Field(
        default=None,
        alias="KEYTURN_DAILY_SPEND_ALERT_USD",
        gt=0,
        description="The spend of a day (UTC), in US dollars, above which `daily_spend_over` is logged once.",
    )
    # About 2,000 decisions: more than a person asks in an hour, and a few dollars with a small model. 0 is no limit.
    tokens_per_user_hour: int = Field(
        default=1_000_000,
        alias="KEYTURN_TOKENS_PER_USER_HOUR",
        ge=0,
        le=10**12,
        description="The tokens that one user may use within any hour; 0 is no limit.",
    )
    response_cache: Literal["on", "off"] = Field(
        default="on",
        alias="KEYTURN_RESPONSE_CACHE",
        description="Whether accepted answers of repeatable tasks are cached and returned for the same input.",
    )
    fingerprint_key: Key | None = Field(
        default=None,
        alias="KEYTURN_FINGERPRINT_KEY",
        description="A secret of your own, best of 32 characters or more: call records then hold an HMAC of the input.",
    )

    webhook_url: Annotated[str, AfterValidator(_receiver)] | None = Field(
        default=None, alias="KEYTURN_WEBHOOK_URL", description="The receiver of new jobs: https, or http on loopback."
    )
    webhook_keys: Annotated[SecretStr, AfterValidator(_webhook_keys)] | None = Field(
        default=None,
        alias="KEYTURN_WEBHOOK_KEYS",
        description=(
            "The secrets that sign messages to the receiver: ID:SECRET of 32 characters or more, two while "
            "one replaces the other."
        ),
    )
    webhook_private: Literal["refuse", "allow"] = Field(
        default="refuse",
        alias="KEYTURN_WEBHOOK_PRIVATE",
        description="Whether the receiver may have a private address; link-local ones are always refused.",
    )
    build_id: Annotated[str, AfterValidator(_build)] | None = Field(
        default=None,
        alias="KEYTURN_BUILD_ID",
        description="The worker's build, such as its git commit; rotations stay with the build that started them.",
    )
    monitoring_address: Annotated[str, AfterValidator(host_and_port)] | None = Field(
        default=None,
        alias="KEYTURN_MONITORING_ADDRESS",
        description="HOST:PORT for /metrics, /healthz, /readyz and /status.",
    )
    # A person notices after a second or two and gives up after about ten: half of that is degraded.
    degraded_p95_ms: float = Field(
        default=5_000,
        alias="KEYTURN_DEGRADED_P95_MS",
        gt=0,
        description="The 95th percentile of call latency, in milliseconds, above which /status says degraded.",
    )
    # 64 calls at once keep two cores busy with an instant provider; beyond that they only wait in line (make bench).
    max_concurrent_activities: int = Field(
        default=64,
        alias="KEYTURN_MAX_CONCURRENT_ACTIVITIES",
        ge=1,
        le=1_000,
        description="The most activities at once in one worker.",
    )

    # Pages of bulk runs at once in one worker, eight calls each: 16 calls leave three quarters of the slots to people.
    bulk_pages: int = Field(
        default=2,
        alias="KEYTURN_BULK_PAGES",
        ge=0,
        le=64,
        description="The pages of bulk runs that one worker judges at once; 0 is none.",
    )
    # Schedules name files on the worker's machine: only what lies below this folder is read.
    inventory_root: Path | None = Field(
        default=None,
        alias="KEYTURN_INVENTORY_ROOT",
        description="The folder below which a worker reads the inventories of schedules; without it, it reads none.",
    )
    bulk_keys_per_second: float | None = Field(
        default=None,
        alias="KEYTURN_BULK_KEYS_PER_SECOND",
        gt=0,
        description="The most keys a second of bulk runs, for all workers together.",
    )

    @cached_property
    def routes(self) -> Mapping[str, tuple[Target, ...]]:
        """Whom to ask, by task."""
        return parse_routes(self.routes_text, load_tasks(), [*OWN_SETTINGS, *self.named_endpoints.entries])

    @cached_property
    def named_endpoints(self) -> NamedEndpoints:
        """The endpoints of the file KEYTURN_ENDPOINTS; raises SettingsInvalid."""
        return NamedEndpoints() if self.endpoints_file is None else read_endpoints(self.endpoints_file)

    @cached_property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """Those that the routes name, by name: made once, for what is learned of one counts for all that ask it."""
        return {name: self._endpoint(name) for name in {target.provider for target in self.targets}}

    def has_key(self, name: str) -> bool:
        """Return whether an endpoint is asked with a key, whether or not it is taken."""
        if name in self.named_endpoints.entries:
            return self.named_endpoints.entries[name].has_key
        return getattr(self, f"{name}_api_key") is not None

    def _endpoint(self, name: str) -> Endpoint:
        if name in self.named_endpoints.entries:
            return self.named_endpoints.made(name, os.environ)
        key: SecretStr | None = getattr(self, f"{name}_api_key")
        url: str | None = getattr(self, f"{name}_base_url")
        return Endpoint(
            name,
            WIRES[name],
            url or "",
            FixedKey(key or SecretStr("")),
            takes_batches=name in {"openai", "anthropic"},
        )

    @cached_property
    def keyring(self) -> Keyring:
        """What encrypts payloads and cached responses; in development its file is made if it is not there."""
        return load_keyring(
            text=None if self.payload_keys is None else self.payload_keys.get_secret_value(),
            file=self.payload_keys_file,
            development=self.environment == "development",
            account_names=self.account_names,
            generate=True,
        )

    @property
    def targets(self) -> list[Target]:
        """Every endpoint and model that a route names, each once."""
        return sorted({Target(*target[:2]) for route in self.routes.values() for target in route})

    @cached_property
    def prices(self) -> RateCard:
        """Prices and context windows, by the rate card first; raises SettingsInvalid."""
        return RateCard(
            {} if self.rate_card is None else read_rate_card(self.rate_card),
            of_endpoints=self.named_endpoints.rates(),
            lists=self.named_endpoints.lists(),
        )


class _RateCardFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    models: dict[str, ModelEntry]


def read_rate_card(file: Path) -> dict[str, Rate]:
    """Return the models in a TOML file of `[models."NAME"]` tables; raises SettingsInvalid.

    A table may have `input`, `output`, `cached_input` and `cache_write`, in US dollars a million tokens, and
    `context_window` in tokens.
    """
    try:
        card = _RateCardFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal))
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise SettingsInvalid(f"KEYTURN_RATE_CARD: {file} is not a rate card: {reason}") from None
    return {model: Rate(**entry.model_dump()) for model, entry in card.models.items()}


def load_database_url() -> URL:
    """Return the database's URL alone; raises SettingsInvalid."""
    return load_local_settings().database_url


def load_local_settings() -> LocalSettings:
    """Return the settings that need no provider; raises SettingsInvalid."""
    try:
        return LocalSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None


def load_settings() -> Settings:
    """Return the settings; raises SettingsInvalid with every fault, a line each, and no value of any."""
    faults: list[str] = []
    settings: Settings | None = None
    try:
        settings = Settings()
    except ValidationError as error:
        faults += field_faults(error)
    given: Callable[[str], str] = lambda name: os.environ.get(name, "")  # noqa: E731 - one line, used once
    faults += [fault for fault in _faults_across(given) if fault.split(":")[0].split(" ")[0] not in _named(faults)]
    if settings is not None:
        unrouted = bool({"KEYTURN_ROUTES", "KEYTURN_ENDPOINTS"} & _named(faults))
        faults += _faults_of_values(settings, unrouted=unrouted)
    if settings is None or faults:
        raise SettingsInvalid("\n".join(faults))
    return settings


def _faults_across(given: Callable[[str], str]) -> Iterator[str]:
    """Faults that lie between settings, found although others may be wrong too."""
    yield from (f"{old} is now {new}: rename it" for old, new in _RENAMED.items() if given(old))
    named = NamedEndpoints()
    try:
        if given("KEYTURN_ENDPOINTS"):
            named = read_endpoints(Path(given("KEYTURN_ENDPOINTS")))
    except SettingsInvalid as error:
        yield from str(error).splitlines()
        return  # what the routes may name is not known
    try:
        routes = parse_routes(given("KEYTURN_ROUTES"), load_tasks(), [*OWN_SETTINGS, *named.entries])
    except ValueError as error:
        yield f"KEYTURN_ROUTES: {error}"
        return
    targets = sorted({target for route in routes.values() for target in route})
    for provider in dict.fromkeys(target.provider for target in targets):
        if provider in named.entries:
            yield from named.faults_of(provider, os.environ)
            continue
        name = "KEYTURN_COMPATIBLE_BASE_URL" if provider == "compatible" else f"{provider.upper()}_API_KEY"
        if not given(name):
            yield f"{name} is not set: KEYTURN_ROUTES asks {provider}"
    if given("KEYTURN_WEBHOOK_URL") and not given("KEYTURN_WEBHOOK_KEYS"):
        yield "KEYTURN_WEBHOOK_KEYS is not set: messages to KEYTURN_WEBHOOK_URL are signed, as ID:SECRET"
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
    """Names of the variables that hold the placeholder, of those that the asked endpoints read."""
    variables = {f"{name.upper()}_API_KEY" for name in asked & _WITH_PUBLIC_MODELS}
    variables |= {"KEYTURN_COMPATIBLE_API_KEY"} if "compatible" in asked else set()
    variables |= {entry.key_env for name, entry in named.entries.items() if name in asked and entry.key_env}
    return sorted(name for name in variables if given(name) == PLACEHOLDER_KEY)


def _faults_of_values(settings: Settings, *, unrouted: bool) -> Iterator[str]:
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
        if target.provider in _WITH_PUBLIC_MODELS and not settings.prices.knows(target.provider, target.model):
            yield (
                f"KEYTURN_ROUTES: {target.provider} has no model {target.model!r} that is known here: fix it, or "
                f'add [models."{target.model}"] to the file that KEYTURN_RATE_CARD names'
            )


def _named(faults: list[str]) -> set[str]:
    return {fault.split(":")[0].split(" ")[0] for fault in faults}


def field_faults(error: ValidationError) -> list[str]:
    """Return what is wrong with settings, a line each, by the names of their variables and without their values."""
    return [_fault(item["loc"], item["type"], item["msg"]) for item in error.errors()]


def _fault(location: tuple[Any, ...], kind: str, message: str) -> str:
    name = str(location[0]) if location else "settings"
    if kind == "missing":
        return f"{name} is not set: {_HINTS.get(name, 'it is required')}"
    return f"{name}: {message.removeprefix('Value error, ')}"
