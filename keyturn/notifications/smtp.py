"""E-mail: notices by SMTP (RFC 5321), encrypted on the way, in plain text.

A message that is sent again has the same Message-ID, by which mail servers and clients show it once.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from keyturn.errors import SettingsInvalid
from keyturn.jobs.channel import Channel
from keyturn.jobs.errors import ReceiverRefused, ReceiverUnavailable
from keyturn.notices.channel import Notifier, NotifierContext
from keyturn.notices.contracts import NoticeMessage
from keyturn.notices.wording import as_text, headline
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT

SEND_SECONDS = 20.0  # a mail server may look for spam before it answers; then it is asked again
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Mail:
    """A mail server that takes messages for anyone."""

    def __init__(self, url: str, sender: str, *, authorities: ssl.SSLContext | None = None) -> None:
        self._url = urlsplit(url)
        self._sender = sender
        self._authorities = authorities

    async def send(self, address: str, message: NoticeMessage, *, desk: str | None) -> str:
        """Send `message` to an address once; see `Notifier`."""
        import aiosmtplib  # not before a message is sent: most workers send none

        host = self._url.hostname or ""
        try:
            refused, _ = await aiosmtplib.send(
                self._mail(address, message, desk),
                hostname=host,
                port=self._url.port or (465 if self._url.scheme == "smtps" else 587),
                username=unquote(self._url.username) if self._url.username else None,
                password=unquote(self._url.password) if self._url.password else None,
                use_tls=self._url.scheme == "smtps",
                # A server that offers no encryption is refused, but for one on this machine.
                start_tls=None if self._url.scheme == "smtps" or host in _LOOPBACK else True,
                tls_context=self._authorities,
                timeout=SEND_SECONDS,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _classify(max((one.code for one in error.recipients), default=550)) from None
        except aiosmtplib.SMTPResponseException as error:
            raise _classify(error.code) from None
        except OSError as error:  # aiosmtplib's own of connections are OSErrors
            raise ReceiverUnavailable(f"the mail server did not answer: {type(error).__name__}") from None
        except aiosmtplib.SMTPException:
            said = "the mail server does not offer what KEYTURN_SMTP_URL needs: encryption (STARTTLS), or a sign-in"
            raise ReceiverUnavailable(said) from None
        if refused:  # of several recipients, some; the message has one
            raise _classify(max(code for code, _ in refused.values()))
        return "taken"

    def preview(self, address: str, message: NoticeMessage, *, desk: str | None) -> Mapping[str, Any]:
        """Return the headers and the text."""
        mail = self._mail(address, message, desk)
        return {"to": mail["To"], "subject": mail["Subject"], "text": mail.get_content()}

    def _mail(self, address: str, message: NoticeMessage, desk: str | None) -> EmailMessage:
        mail = EmailMessage()
        mail["From"], mail["To"] = self._sender, address
        mail["Subject"] = f"Keyturn: {headline(message)}"[:200]
        mail["Message-ID"] = f"<{message.message_id}@{self._sender.rpartition('@')[2].rstrip('>')}>"
        mail["Date"] = format_datetime(message.notices[-1].at)
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday note comes back
        mail.set_content(as_text(message, desk))
        return mail


def _classify(code: int) -> ReceiverUnavailable | ReceiverRefused:
    """RFC 5321, 4.2.1: 4xx passes, 5xx does not."""
    if 400 <= code < 500:
        return ReceiverUnavailable(f"the mail server answered {code}")
    return ReceiverRefused(f"the mail server answered {code}")


def _smtp_url(value: SecretStr) -> SecretStr:
    try:
        url = urlsplit(value.get_secret_value())
        is_whole = url.scheme in {"smtp", "smtps"} and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        is_whole = False
    if not is_whole or url.query or url.path.strip("/"):
        raise ValueError("is not smtp://USER:PASSWORD@HOST:587 or smtps://USER:PASSWORD@HOST:465")
    if (url.username is None) != (url.password is None):
        raise ValueError("has a user without a password, or a password without a user")
    return value


def _address(value: str) -> str:
    mail = EmailMessage()
    try:
        mail["From"] = value
        addresses = mail["From"].addresses
    except (ValueError, IndexError):  # a line break; and the standard library's parser on a lone angle bracket
        addresses = ()
    if len(addresses) != 1 or not addresses[0].domain:
        raise ValueError("is not one address, such as keyturn@example.org")
    return value


def _fault_of(address: str) -> str | None:
    try:
        _address(address)
    except ValueError:
        return "write one address, as smtp:team@example.org"
    return None


class SmtpSettings(BaseSettings):
    """The mail server."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    url: Annotated[SecretStr, AfterValidator(_smtp_url)] | None = Field(
        default=None,
        alias="KEYTURN_SMTP_URL",
        description="The mail server: smtp://USER:PASSWORD@HOST:587 (STARTTLS), or smtps://...; routes name recipients "
        "as smtp:ADDRESS.",
    )
    sender: Annotated[str, AfterValidator(_address)] | None = Field(
        default=None, alias="KEYTURN_SMTP_FROM", description="The sender of e-mails, such as keyturn@example.org."
    )

    @model_validator(mode="after")
    def _names_its_sender(self) -> "SmtpSettings":
        if self.url is not None and self.sender is None:
            raise ValueError("KEYTURN_SMTP_FROM is not set: e-mails by KEYTURN_SMTP_URL need a sender")
        return self


@asynccontextmanager
async def _open(settings: SmtpSettings, _context: NotifierContext) -> AsyncIterator[Notifier]:
    if settings.url is None or settings.sender is None:
        raise SettingsInvalid("KEYTURN_SMTP_URL is not set")
    yield Mail(settings.url.get_secret_value(), settings.sender)


CHANNEL = Channel(
    "smtp",
    SmtpSettings,
    is_on=lambda settings: settings.url is not None,
    notify=_open,
    addresses=lambda _settings: None,
    fault_of=_fault_of,
)
