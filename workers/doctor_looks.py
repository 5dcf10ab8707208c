"""What `keyturn doctor` looks at beside the settings themselves: each says what it found, or raises what is wrong."""

import asyncio
from pathlib import Path

from keyturn.console import counted
from keyturn.contracts import UNOWNED
from keyturn.database import open_database
from keyturn.execution.mapping import load_key_map
from keyturn.notices.channel import NotifierContext
from keyturn.owners import OwnerSettings, load_owners
from keyturn.people import is_among
from keyturn.workers.executor_settings import ExecutorSettings
from keyturn.workers.notices import open_notifications
from keyturn.workers.settings import Settings


async def key_map_look(file: Path | None) -> str:
    """Say how many keys the key map names; raises KeyMapInvalid."""
    return f"{counted(len(list(load_key_map(file))), 'key')} mapped" if file else "every key goes to the same targets"


async def notices_look(settings: Settings) -> str:
    """Say where notices go; raises RoutesInvalid."""
    engine = open_database(settings.database_url, pool_size=1)  # which nothing here connects to
    try:
        async with open_notifications(settings.channels, NotifierContext(1, engine)) as found:
            if found is None:
                return "KEYTURN_NOTIFY is not set: no one is notified"
            said = f"{counted(len(found.routes.route), 'route')} to {', '.join(found.routes.destinations)}"
            owners = load_owners().names
            routed = {owner for route in found.routes.route for owner in route.owners or ()} - {UNOWNED}
            strange = sorted(one for one in routed if not is_among(one, owners)) if owners else []
            unnamed = f"; no file names the owner {', '.join(strange)}: only an inventory can" if strange else ""
            return said + unnamed
    finally:
        await engine.dispose()


async def owners_look() -> str:
    """Say what names the owners of keys; raises KeyMapInvalid, OwnersInvalid."""
    settings = OwnerSettings()
    load_owners(settings)
    named = [f"{name} of {file}" for name, file in (("tables", settings.key_map), ("lines", settings.owners)) if file]
    return f"by {' and '.join(named)}" if named else "no file names owners: every key counts as unowned"


async def cloud_look(settings: ExecutorSettings) -> str:
    """Ask the executor's cloud whose its credentials are; raises an ExecutorError."""
    from keyturn.workers.executor_accounts import open_keys

    found = [await keys.account() for keys in await asyncio.to_thread(open_keys, settings)]
    return f"these credentials are of the account {', '.join(found)}"
