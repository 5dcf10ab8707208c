"""Every setting of a worker, from the environment, checked at start with all faults in one message."""

import os
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings

from keyturn.errors import SettingsInvalid
from keyturn.jobs.channel import AnyChannel
from keyturn.keyring import Keyring
from keyturn.keyring_files import load_keyring
from keyturn.ledger.prices import RateCard
from keyturn.llm.endpoint import Endpoint
from keyturn.llm.providers import load_providers, price_lists_of_providers
from keyturn.llm.routing import Target, parse_routes
from keyturn.notices.routing import NotifySettings
from keyturn.notifications import load_channels
from keyturn.owners import OwnerSettings
from keyturn.settings import Key, field_faults, host_and_port
from keyturn.tasks.registry import load_tasks
from keyturn.workers.endpoints import NamedEndpoints, OwnEndpoint, own_endpoints, read_endpoints
from keyturn.workers.local_settings import LocalSettings
from keyturn.workers.rate_card import read_rate_card
from keyturn.workers.retention_settings import RetentionSettings
from keyturn.workers.settings_faults import faults_across, faults_of_channels, faults_of_values, setting_names


def _build(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("is not a build ID of up to 64 letters, digits, . _ -, such as a git commit")
    return value


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

    # Eight pages of 50 keys are twice as many questions as a worker asks at once (keyturn/llm/concurrency.py): while
    # some pages begin or end, the others keep the provider busy.
    bulk_pages: int = Field(
        default=8,
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
        return channels_that_are_on()

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


def channels_that_are_on() -> Mapping[str, tuple[AnyChannel, BaseSettings]]:
    """Return the channels that the environment switches on, with their settings; raises ValidationError."""
    found = {name: (channel, channel.settings()) for name, channel in load_channels().items()}
    return {name: (channel, settings) for name, (channel, settings) in found.items() if channel.is_on(settings)}


def settings_variables() -> set[str]:
    """Return the name of every environment variable that a worker reads as a setting of Keyturn's."""
    groups: list[type[BaseSettings]] = [
        Settings,
        OwnerSettings,
        NotifySettings,
        RetentionSettings,
        *(channel.settings for channel in load_channels().values()),
    ]
    named = {str(field.alias) for group in groups for field in group.model_fields.values()}
    return named | {name for one in load_providers().values() for name in (one.key_variable, one.url_variable)}


def load_settings() -> Settings:
    """Return the settings; raises SettingsInvalid with every fault, a line each, and no value of any."""
    faults: list[str] = []
    settings: Settings | None = None
    try:
        settings = Settings()
    except ValidationError as error:
        faults += field_faults(error)
    faults += [*own_endpoints(os.environ)[1], *faults_of_channels()]
    given: Callable[[str], str] = lambda name: os.environ.get(name, "")  # noqa: E731 - one line, used once
    faults += [
        fault for fault in faults_across(given) if fault.split(":")[0].split(" ")[0] not in setting_names(faults)
    ]
    if settings is not None:
        unrouted = bool({"KEYTURN_ROUTES", "KEYTURN_ENDPOINTS"} & setting_names(faults))
        faults += faults_of_values(settings, unrouted=unrouted)
    if settings is None or faults:
        raise SettingsInvalid("\n".join(faults))
    return settings
