"""The commands about payload keys: `codec` serves clear text to operators, `keys` prints and checks keys."""

import asyncio
import re
import signal
from typing import Annotated

import click
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings

from keyturn.errors import SettingsInvalid
from keyturn.keyring import keyring_from_environment, new_key_line, new_keyring_text
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults, host_and_port
from keyturn.tokens import parse_tokens


def _tokens(value: SecretStr) -> SecretStr:
    parse_tokens(value.get_secret_value())
    return value


def _origins(value: str) -> str:
    for origin in parse_origins(value):
        if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?", origin):
            raise ValueError("holds something that is not an origin, such as https://temporal.example.com")
    return value


class CodecSettings(BaseSettings):
    """The codec server's settings; the keyring is read as everywhere."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    address: Annotated[str, AfterValidator(host_and_port)] = Field(
        default="127.0.0.1:8402",
        alias="KEYTURN_CODEC_ADDRESS",
        description="HOST:PORT on which the codec server listens.",
    )
    origins: Annotated[str, AfterValidator(_origins)] = Field(
        default="http://127.0.0.1:8233,http://localhost:8233",
        alias="KEYTURN_CODEC_ORIGINS",
        description="The origins of your Temporal UI, by commas: the only pages that may ask.",
    )
    hosts: str = Field(
        default="localhost,127.0.0.1,::1",
        alias="KEYTURN_CODEC_HOSTS",
        description="The names, by commas, under which the codec server answers.",
    )
    tokens: Annotated[SecretStr, AfterValidator(_tokens)] = Field(
        alias="KEYTURN_CODEC_TOKENS",
        description="Who may decrypt: NAME:TOKEN, by commas, each token of 32 characters or more.",
    )


def parse_origins(value: str) -> frozenset[str]:
    """Return the origins of a list by commas."""
    return frozenset(filter(None, (origin.strip().rstrip("/") for origin in value.split(","))))


def parse_hosts(value: str) -> frozenset[str]:
    """Return the names of a list by commas, in small letters."""
    return frozenset(filter(None, (name.strip().strip("[]").lower() for name in value.split(","))))


def load_codec_settings() -> CodecSettings:
    """Return the settings; raises SettingsInvalid with every fault, and no value of any."""
    try:
        return CodecSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None


@click.command()
def codec() -> None:
    """Serve clear text of encrypted payloads to signed-in operators of Temporal's UI and command line, until Ctrl-C.

    \b
    Example:
      KEYTURN_CODEC_TOKENS=luna:$(openssl rand -hex 24) keyturn codec
    """
    from workers.codec import CodecServer
    from workers.monitoring import served
    from workers.settings import load_local_settings
    from workers.telemetry import configure_logging

    settings, keyring = load_codec_settings(), keyring_from_environment()
    configure_logging(load_local_settings().log_format)
    server = CodecServer(
        keyring,
        parse_tokens(settings.tokens.get_secret_value()),
        parse_origins(settings.origins),
        parse_hosts(settings.hosts),
    )

    async def run() -> None:
        stop = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        async with served(server.application(), settings.address, setting="KEYTURN_CODEC_ADDRESS"):
            await stop.wait()

    asyncio.run(run())


@click.group()
def keys() -> None:
    """Print new payload keys, and tell which are held here. Keys are secrets: send the output into a file."""


@keys.command()
def new() -> None:
    """Print a whole new keyring: a payload key, and the key of pseudonyms.

    \b
    Example:
      (umask 077; keyturn keys new > payload_keys)
    """
    click.echo(new_keyring_text(), nl=False)


@keys.command()
@click.option("--id", "key_id", help="The key's id.  [default: today's date and some letters]")
def line(key_id: str | None) -> None:
    """Print one more payload key. Add it last everywhere, deploy, then move it to the front.

    docs/how-to/encrypt-payloads.md says more.

    \b
    Example:
      keyturn keys line >> payload_keys
    """
    click.echo(new_key_line(key_id))


@keys.command("list")
def list_keys() -> None:
    """List the ids of the keys held here, the one that encrypts first, each with a check value to compare by.

    \b
    Example:
      keyturn keys list
    """
    for place, (key_id, value) in enumerate(keyring_from_environment().check_values.items()):
        click.echo(f"{key_id:32}  {value}  {'encrypts and decrypts' if place == 0 else 'decrypts'}")
