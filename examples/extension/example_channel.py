"""A notification channel: a line a message, appended to the file that EXAMPLE_CHANNEL_FILE names."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from keyturn.jobs.channel import Channel, Receiver
from keyturn.jobs.errors import ReceiverUnavailable
from keyturn.jobs.outbox import Message
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT


class ExampleSettings(BaseSettings):
    """Where messages are written."""

    model_config = SETTINGS_FROM_ENVIRONMENT
    file: Path | None = Field(default=None, alias="EXAMPLE_CHANNEL_FILE", description="File that messages go to.")


class Lines:
    """The file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def send(self, message: Message) -> str:
        """Append a message, unless it is there: it may be sent again after an answer was lost."""
        line = json.dumps({"message": message.outbox_id, "job_id": message.job_id, "topic": message.topic}) + "\n"
        try:
            with self._file.open("a+", encoding="utf-8") as lines:
                lines.seek(0)
                if line in lines:
                    return "known"
                lines.write(line)
        except OSError as error:
            raise ReceiverUnavailable(f"the file cannot be written: {error.strerror}") from None
        return "taken"


@asynccontextmanager
async def open_lines(settings: ExampleSettings, _most_at_once: int) -> AsyncIterator[Receiver]:
    """Yield the receiver, for as long as the worker runs."""
    yield Lines(settings.file or Path("messages.jsonl"))


CHANNEL = Channel("example", ExampleSettings, is_on=lambda settings: settings.file is not None, open=open_lines)
