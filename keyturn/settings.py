"""What every group of settings shares: where they are read from, how values are checked, how faults are named."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
from pydantic import AfterValidator, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

Network = IPv4Network | IPv6Network
# Names of fields are not accepted as variables: `MODEL` or `DATABASE` may mean something else on a machine. A variable
# that is set to nothing is not set: compose files write them so.
SETTINGS_FROM_ENVIRONMENT = SettingsConfigDict(
    extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True, case_sensitive=True
)
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# What each required setting is for, said where it is missing.
_HINTS = {
    "KEYTURN_ROUTES": "the models to ask, such as openai:gpt-5-mini, anthropic:claude-haiku-4-5",
    "KEYTURN_CODEC_TOKENS": "who may decrypt, such as luna:TOKEN, each token of 32 characters or more",
}

# Settings by their former names, which are reported for one release.
_RENAMED = {
    "KEYTURN_ANSWER_CACHE": "KEYTURN_RESPONSE_CACHE",
    "KEYTURN_EXECUTOR_SECRETS": "KEYTURN_EXECUTOR_TARGETS",
    "KEYTURN_EXECUTOR_SECRET_NAME": "KEYTURN_EXECUTOR_TARGETS",
}


def faults_of_names(given: Callable[[str], str]) -> Iterator[str]:
    """Yield the settings that are given by a former name."""
    yield from (f"{old} is now {new}: rename it" for old, new in _RENAMED.items() if given(old))


def http_url(value: str) -> str:
    """Return `value` if it is a URL without a password and a query; raises ValueError."""
    try:
        url = httpx.URL(value)
        urlsplit(value)  # which refuses a bracket without the other one
    except (httpx.InvalidURL, ValueError):
        raise ValueError("is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("must begin with http:// or https:// and name a host")
    if url.userinfo or "?" in value or "#" in value:
        raise ValueError("must have neither a password nor a query: a key has its own variable")
    if any(letter.isspace() for letter in value) or (url.port or 0) > 65_535:
        raise ValueError("is not a URL: it holds a blank, or a port above 65535")
    return value


def secure_url(value: str) -> str:
    """Return the URL of a server that gets a credential, without a slash at its end; raises ValueError."""
    url = httpx.URL(http_url(value))
    if url.scheme != "https" and url.host not in _LOOPBACK:
        raise ValueError("must use https, or http on loopback")
    return value.rstrip("/")


def host_and_port(value: str) -> str:
    """Return `value` if it is HOST:PORT; raises ValueError."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError("is not HOST:PORT, such as 127.0.0.1:9464")
    return value


def is_one_word(value: str) -> bool:
    """Return True if a header may carry `value` as a key: printable ASCII, without blanks around it."""
    return value == value.strip() and value.isascii() and value.isprintable()


def _alone(value: SecretStr) -> SecretStr:
    if not value.get_secret_value() or not is_one_word(value.get_secret_value()):
        raise ValueError("must be the key alone, without spaces or line breaks")
    return value


Key = Annotated[SecretStr, AfterValidator(_alone)]


def field_faults(error: ValidationError) -> list[str]:
    """Return what is wrong with settings, a line each, by the names of their variables and without their values."""
    return [_fault(item["loc"], item["type"], item["msg"]) for item in error.errors()]


def _fault(location: tuple[Any, ...], kind: str, message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:  # a fault between settings, which names them itself
        return message
    name = str(location[0])
    return f"{name} is not set: {_HINTS.get(name, 'it is required')}" if kind == "missing" else f"{name}: {message}"
