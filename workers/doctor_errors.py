"""What `keyturn doctor` finds wrong, each with what fixes it."""

from keyturn.errors import KeyturnError
from keyturn.key_use import REPLACE


class WorkersDiffer(KeyturnError):
    """Running workers have other payload keys or policy lines than this machine."""

    kind = "workers_differ"
    hint = (
        "Give both the same KEYTURN_PAYLOAD_KEYS or KEYTURN_PAYLOAD_KEYS_FILE, KEYTURN_ACCOUNT_NAMES, "
        "KEYTURN_POLICY_DIR and KEYTURN_POLICY_SHIPPED, and restart the worker."
    )


class NameMisspelt(KeyturnError):
    """A variable's name is nearly that of a setting, and is read by nothing."""

    kind = "setting_misspelt"
    hint = "Rename it; .env.example lists all settings."


class FileOpen(KeyturnError):
    """A file that holds secrets can be read by other users of this machine."""

    kind = "secrets_readable"
    hint = "Run `chmod 600` on it."


class FileUnreadable(KeyturnError):
    """A variable that names a file of secrets names none, or one in a folder that may not be entered."""

    kind = "secrets_unreadable"
    hint = "Set it to the path of a file; the secret itself goes into the variable without _FILE."


class SqliteInProduction(KeyturnError):
    """Production's database is a SQLite file, which one machine alone can open."""

    kind = "sqlite_in_production"
    hint = "Set DATABASE_URL to a PostgreSQL; a worker refuses SQLite in production."


class RedisAway(KeyturnError):
    """Redis did not answer. Each worker counts tokens and detects outages on its own, and finds no cached responses."""

    kind = "redis_away"
    hint = "Bring back the Redis that KEYTURN_REDIS_URL names; rotations continue without it."


class ProvidersDown(KeyturnError):
    """Some providers of the routes failed several times in a row."""

    kind = "providers_down"
    hint = "Look at their status pages, or ask them with `keyturn doctor --live`; workers retry them by themselves."


class AttributesMissing(KeyturnError):
    """The namespace lacks search attributes, and would refuse every start."""

    kind = "search_attributes_missing"
    hint = "Run `keyturn namespace` once."


class KeyWorn(KeyturnError):
    """A payload key has encrypted half as often as AES-GCM allows."""

    kind = "payload_key_worn"
    hint = REPLACE


class NoBuild(KeyturnError):
    """No build is current: a worker with a build ID takes no new rotation until its build is promoted."""

    kind = "no_current_build"
    hint = "Run `keyturn deployment promote BUILD`; rotations wait until then."


class NoWorker(KeyturnError):
    """No worker polls the task queue."""

    kind = "no_worker"
    hint = "Run `keyturn worker`; workflows wait until then."
