"""A fetcher of a cloud that is a folder: a key is a file `USER/KEY_ID` in the folder that EXAMPLE_CLOUD names.

A fetcher says which parts there are, and reads one; that a fetch is resumed, put together and compared with the last
one is Keyturn's. A call of a cloud is repeated by `keyturn.snapshots.attempts.repeated`; a folder needs none.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from keyturn.settings import SETTINGS_FROM_ENVIRONMENT
from keyturn.snapshots.fetcher import Fetcher, Page, Part
from keyturn.snapshots.rows import Rows


class FolderSettings(BaseSettings):
    """Where the cloud is."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    cloud: Path = Field(alias="EXAMPLE_CLOUD", description="The folder that is the example's cloud.")


class FolderCloud:
    """The keys in the folder."""

    def __init__(self) -> None:
        self._cloud = FolderSettings().cloud

    async def parts(self) -> Sequence[Part]:
        """Return the users."""
        return [Part(user.name) for user in sorted(self._cloud.iterdir())]

    async def read(self, part: Part, cursor: str, observed_at: datetime) -> Page:
        """Return all keys of a user."""
        rows = Rows(observed_at, "example")
        for key in (self._cloud / part.name).iterdir():
            created_at = datetime.fromtimestamp(key.stat().st_mtime, UTC)
            rows.add(part.name, key.name, kind="access_key", created_at=created_at)
        return Page(rows)

    async def close(self) -> None:
        """Do nothing: a folder has no connection."""


FETCHER = Fetcher("example", part="user", open=FolderCloud, settings=lambda: FolderSettings)
