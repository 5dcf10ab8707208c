"""Every setting of a worker, from the environment, checked at start with all faults in one message."""

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings
from sqlalchemy.engine import URL

from keyturn.database import database_url
from keyturn.errors import SettingsInvalid
from keyturn.jobs.channel import AnyChannel
from keyturn.keyring import Keyring, load_keyring
from keyturn.ledger.prices import Rate, RateCard
from keyturn.llm.endpoint import Endpoint
from keyturn.llm.providers import load_providers, price_lists_of_providers
from keyturn.llm.routing import Target, parse_routes
from keyturn.notifications import load_channels
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, Key, field_faults, host_and_port
from keyturn.tasks.registry import load_tasks
from keyturn.workers.endpoints import ModelEntry, NamedEndpoints, OwnEndpoint, own_endpoints, read_endpoints

# Written into examples and used by the embedded stack: who runs production with it forgot to set the real one.
PLACEHOLDER_KEY = "dev_key_not_a_real_secret"
SIMULATED_MODELS = "simulator-"  # the simulator answers for models of this name only, so no setting can hide it


def _redis(value: SecretStr) -> SecretStr:
    from redis.asyncio.connection import parse_url  # only where there is one

    try:
        parse_url(value.get_secret_value())
    except ValueError:
        # Its own message may quote a part of the password.
        raise ValueError("is not redis://[:password@]host:port; a password's / and # are written %2F and %23") from None
    return value


def _build(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("is not a build ID of up to 64 letters, digits, . _ -, such as a git commit")
    return value


# Settings by their former names, which are reported for one release.
_RENAMED = {"KEYTURN_ANSWER_CACHE": "KEYTURN_RESPONSE_CACHE"}


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
            "workers need the same files."
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
        description="The log's format: JSON lines, text, or auto: text where standard error is a terminal.",
    )
    task_queue: str = Field(
        default="keyturn",
        alias="KEYTURN_TASK_QUEUE",
        min_length=1,
        max_length=200,
        description="The task queue that workers poll; starters need the same one.",
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
        description="The file of payload keys, an entry a line, in place of KEYTURN_PAYLOAD_KEYS; for its owner alone.",
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
        description="The models to ask, in order: ENDPOINT:MODEL, ENDPOINT:MODEL; or TASK = ROUTE; * = ROUTE.",
    )
    endpoints_file: Path | None = Field(
        default=None,
        alias="KEYTURN_ENDPOINTS",
        description="The TOML file of further model servers, in [endpoints.NAME] tables.",
    )

    rate_card: Path | None = Field(
        default=None,
        alias="KEYTURN_RATE_CARD",
        description='The TOML file of your own prices, in US dollars a million tokens, in [models."NAME"] tables.',
    )
    usd_per_call: Decimal | None = Field(
        default=None,
        alias="KEYTURN_USD_PER_CALL",
        gt=0,
        description="The cap on the cost of one model call, in US dollars, in place of each task's own cap.",
    )
    usd_per_user_day: Decimal | None = Field(
        default=None,
        alias="KEYTURN_USD_PER_USER_DAY",
        gt=0,
        description="The cap on one user's spend in a day (UTC), in US dollars.",
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
        description="The hourly token limit of one user, over any 60 minutes; 0 is no limit.",
    )
    response_cache: Literal["on", "off"] = Field(
        default="on",
        alias="KEYTURN_RESPONSE_CACHE",
        description="Whether accepted answers of repeatable tasks are cached and returned for the same input.",
    )
    fingerprint_key: Key | None = Field(
        default=None,
        alias="KEYTURN_FINGERPRINT_KEY",
        description="A secret of your own, of 32 characters or more: call records then hold an HMAC of the input.",
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
    # A user notices after a second or two and leaves after about ten: half of that is degraded.
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
        description="The limit on concurrent activities of one worker.",
    )

    # Pages of bulk runs at once in one worker, eight calls each: 16 calls leave three quarters of the slots to users.
    bulk_pages: int = Field(
        default=2,
        alias="KEYTURN_BULK_PAGES",
        ge=0,
        le=64,
        description="The limit on concurrent pages of bulk runs of one worker; 0 is none.",
    )
    # Schedules name files on the worker's machine: only what lies below this folder is read.
    inventory_root: Path | None = Field(
        default=None,
        alias="KEYTURN_INVENTORY_ROOT",
        description="The folder below which a worker reads the inventories of schedules; if unset, it reads none.",
    )
    bulk_keys_per_second: float | None = Field(
        default=None,
        alias="KEYTURN_BULK_KEYS_PER_SECOND",
        gt=0,
        description="The rate limit of bulk runs, in keys a second for all workers together.",
    )

    @cached_property
    def routes(self) -> Mapping[str, tuple[Target, ...]]:
        """Whom to ask, by task."""
        return parse_routes(self.routes_text, load_tasks(), [*load_providers(), *self.named_endpoints.entries])

    @cached_property
    def named_endpoints(self) -> NamedEndpoints:
        """The endpoints of the file KEYTURN_ENDPOINTS; raises SettingsInvalid."""
        return NamedEndpoints() if self.endpoints_file is None else read_endpoints(self.endpoints_file)

    @cached_property
    def own_endpoints(self) -> Mapping[str, OwnEndpoint]:
        """Each provider's own endpoint, by its name."""
        return own_endpoints(os.environ)[0]

    @cached_property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """Those that the routes name, by name: made once, for what is learned of one counts for all that ask it."""
        return {name: self._endpoint(name) for name in {target.provider for target in self.targets}}

    def has_key(self, name: str) -> bool:
        """Return whether an endpoint is asked with a key, whether or not it is taken."""
        if name in self.named_endpoints.entries:
            return self.named_endpoints.entries[name].has_key
        return self.own_endpoints[name].key is not None

    def _endpoint(self, name: str) -> Endpoint:
        if name in self.named_endpoints.entries:
            return self.named_endpoints.build(name, os.environ)
        return self.own_endpoints[name].endpoint()

    @cached_property
    def channels(self) -> Mapping[str, tuple[AnyChannel, BaseSettings]]:
        """The notification channels that are switched on, with their settings, by name."""
        found = {name: (channel, channel.settings()) for name, channel in load_channels().items()}
        return {name: (channel, settings) for name, (channel, settings) in found.items() if channel.is_on(settings)}

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
            lists=price_lists_of_providers() | self.named_endpoints.lists(),
        )


def settings_variables() -> set[str]:
    """Return the name of every environment variable that a worker reads as a setting of Keyturn's."""
    groups: list[type[BaseSettings]] = [Settings, *(channel.settings for channel in load_channels().values())]
    named = {str(field.alias) for group in groups for field in group.model_fields.values()}
    return named | {name for one in load_providers().values() for name in (one.key_variable, one.url_variable)}


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
    faults += [*own_endpoints(os.environ)[1], *_faults_of_channels()]
    given: Callable[[str], str] = lambda name: os.environ.get(name, "")  # noqa: E731 - one line, used once
    faults += [
        fault for fault in _faults_across(given) if fault.split(":")[0].split(" ")[0] not in _setting_names(faults)
    ]
    if settings is not None:
        unrouted = bool({"KEYTURN_ROUTES", "KEYTURN_ENDPOINTS"} & _setting_names(faults))
        faults += _faults_of_values(settings, unrouted=unrouted)
    if settings is None or faults:
        raise SettingsInvalid("\n".join(faults))
    return settings


def _faults_of_channels() -> Iterator[str]:
    for channel in load_channels().values():
        try:
            channel.settings()
        except ValidationError as error:
            yield from field_faults(error)


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
        provider = load_providers().get(target.provider)
        # Whose models are in the public list: another one is a slip. Those of any other endpoint are its operator's.
        listed = provider is not None and provider.price_list is not None
        if listed and not settings.prices.knows(target.provider, target.model):
            yield (
                f"KEYTURN_ROUTES: {target.provider} has no known model {target.model!r}: fix it, or "
                f'add [models."{target.model}"] to the file that KEYTURN_RATE_CARD names'
            )


def _setting_names(faults: list[str]) -> set[str]:
    return {fault.split(":")[0].split(" ")[0] for fault in faults}
