"""The commands about payload keys: `codec` serves clear text to operators, `keys` prints and checks keys."""

import asyncio
import signal

import click

from keyturn.keyring_files import keyring_from_environment, new_key_line, new_keyring_text
from keyturn.tokens import parse_tokens
from keyturn.workers.codec_settings import load_codec_settings, parse_hosts, parse_origins


@click.command()
def codec() -> None:
    """Serve clear text of encrypted payloads to signed-in operators of Temporal's UI and command line, until Ctrl-C.

    \b
    Example:
      KEYTURN_CODEC_TOKENS=luna:$(openssl rand -hex 24) keyturn codec
    """
    from keyturn.web.serving import served
    from keyturn.workers.codec import CodecServer
    from keyturn.workers.local_settings import load_local_settings
    from keyturn.workers.telemetry import configure_logging

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
    """Print new payload keys, or list those of this machine. Keys are secrets: redirect the output to a file."""


@keys.command()
def new() -> None:
    """Print a new keyring: a payload key and the key of pseudonyms.

    \b
    Example:
      (umask 077; keyturn keys new > payload_keys)
    """
    click.echo(new_keyring_text(), nl=False)


@keys.command()
@click.option("--id", "key_id", help="ID of the key.  [default: today's date and some letters]")
def generate(key_id: str | None) -> None:
    """Print one more payload key. Add it as the last one everywhere, deploy, then move it to the front.

    docs/how-to/encrypt-payloads.md says more.

    \b
    Example:
      keyturn keys generate >> payload_keys
    """
    click.echo(new_key_line(key_id))


@keys.command("list")
def list_keys() -> None:
    """List the IDs of this machine's keys, each with a check value to compare; the first one encrypts.

    \b
    Example:
      keyturn keys list
    """
    for place, (key_id, value) in enumerate(keyring_from_environment().check_values.items()):
        click.echo(f"{key_id:32}  {value}  {'encrypts and decrypts' if place == 0 else 'decrypts'}")
