"""Passwords of PostgreSQL login roles, as the keys of a user.

A user `app` is a pair of login roles, `app_a` and `app_b`, of which one works while the other one gets its new
password. What the user may do is granted to a group, the role `app` without LOGIN, of which both are members; where
there is no such role, the administrator grants the same to both. A role is never dropped: it may own tables.

What is documented at https://www.postgresql.org/docs/current/: CREATE ROLE, ALTER ROLE, COMMENT, "Role Attributes"
(CREATEROLE with ADMIN OPTION), and "The Cumulative Statistics System" (pg_stat_activity).
"""

import asyncio
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import pq, sql
from pydantic import SecretStr

from keyturn.execution.contracts import KeyUse
from keyturn.execution.errors import (
    AccountMismatch,
    CloudRefused,
    CloudUnavailable,
    KeyLimit,
    NewKeyMissing,
)
from keyturn.execution.protocols import CloudKey
from keyturn.executors.postgresql.cluster import cluster_of
from keyturn.executors.postgresql.connections import Connection, connected
from keyturn.executors.postgresql.names import (
    LONGEST_ROLE,
    Mark,
    is_generated,
    new_key_id,
)
from keyturn.executors.postgresql.pairs import Pair, alter, changing, expect_user, free_role, note, note_seen, read_pair
from keyturn.executors.postgresql.scram import scram_verifier
from keyturn.executors.postgresql.secret import read_secret, write_secret
from keyturn.executors.postgresql.sessions import VERIFYING, sessions_of
from keyturn.executors.postgresql.settings import RolesSettings

# A bare role, or one of a named server, `7301234567890123456/app`.
_ACCOUNT_ID = re.compile(r"(?:(?P<account>[^/]+)/)?(?P<role>[A-Za-z0-9][A-Za-z0-9_-]*)")
_UNDATED = datetime(1970, 1, 1, tzinfo=UTC)  # older than any rotation: no key without a date is taken for ours
PASSWORD_BYTES = 32  # 256 bits, which no one guesses from a verifier; hexadecimal, so that a URL takes it as it is
SEEN_AGAIN = timedelta(minutes=5)  # a use is dated to that (executors.steps); fewer changes of the catalog
_SERVER = "SELECT coalesce(current_setting('scram_iterations', true), '4096')::int, clock_timestamp()"
_KNOWN_AS = """
SELECT current_user::text, g.oid IS NOT NULL AND NOT g.rolcanlogin, g.oid IS NULL OR pg_has_role(g.oid, 'USAGE')
FROM (SELECT) one LEFT JOIN pg_catalog.pg_roles g ON g.rolname = %s::text
"""


class PostgresqlRoles:
    """The passwords of pairs of roles at one server.

    What PostgreSQL knows of a password's use are the sessions that its role has at the moment of asking. During a
    rotation, a session that was seen is noted in the role's comment. But a program that connects for a moment may never
    be seen, and sessions at a standby never are: without a session, the use is unknown, and the old role can log in
    until the declared consumers have reported the new key, or what a target restarts runs with it, or an operator says
    that nothing uses it.

    Args:
        settings: the server, and the names of its roles.
    """

    most_keys = 2
    visible_within = state_shown_within = timedelta(0)  # the catalog of the primary shows what was committed at once
    has_inactive_state = True

    def __init__(self, settings: RolesSettings) -> None:
        self._settings = settings

    async def account(self) -> str:
        """Return the server's system identifier, or where it is, if it does not say that."""
        async with connected(self._settings.database, "the server's identifier") as connection:
            return await cluster_of(connection, self._settings)

    def account_named_in(self, account_id: str) -> str | None:
        """Return the server in `SERVER/ROLE`; None for a bare role, of which other servers may have one, too."""
        return account_id.rpartition("/")[0] if "/" in account_id else None

    def user_of(self, account_id: str, own: str) -> str:
        """Return the user of an account ID: the group's name, or that of one of its two roles, without its suffix."""
        found = _ACCOUNT_ID.fullmatch(account_id)
        if found is None or found["account"] not in {None, own}:
            raise AccountMismatch(f"the job's account is neither a role nor a role of the server {own}")
        role, suffixes = found["role"], self._settings.suffix_pair
        user = next((role[: -len(one)] for one in suffixes if role.endswith(one) and role != one), role)
        if max(len(user + suffix) for suffix in suffixes) > LONGEST_ROLE:
            raise AccountMismatch(f"the names of the user's roles are longer than {LONGEST_ROLE} characters")
        return user

    async def list_keys(self, user: str) -> list[CloudKey]:
        """Return the roles of the user that have a password, the oldest password first; raises UserGone.

        A role without LOGIN has one only if Keyturn noted that: create a pair's second role with NOLOGIN.
        """
        async with connected(self._settings.database, "list roles") as connection:
            pair = await self._pair(connection, user)
        keys = [
            CloudKey(
                key_id=role.key_id or role.name,
                is_active=role.can_login and not role.is_expired,
                created_at=role.created_at or _UNDATED,
                job_id=None if role.mark is None else role.mark.job_id,
                aliases=(role.name,),  # as an audit writes it
                expires_at=role.valid_until,
            )
            for role in pair.with_key
        ]
        return sorted(keys, key=lambda key: key.created_at)

    async def create(self, user: str, *, job_id: str) -> tuple[str, SecretStr]:
        """Give the role that has no password a new one, and LOGIN; returns the secret as JSON (`write_secret`).

        The server gets the SCRAM verifier only: no log and no statistics of statements has the password. Raises
        KeyLimit, UserGone, and CloudRefused if the other role is absent, expired, or not in the user's group.
        """
        password = SecretStr(secrets.token_hex(PASSWORD_BYTES))
        async with changing(self._settings.database, user, self._names(user), "set a password") as (connection, pair):
            if len(pair.with_key) == len(pair.names):
                raise KeyLimit("both roles of the user have a password")
            name, others = await free_role(connection, pair, may_create=self._settings.create == "on")
            row = await (await connection.execute(_SERVER)).fetchone()
            iterations, now = row or (4096, datetime.now(UTC))
            # In a thread: a server may ask for a million iterations, which take a second.
            verifier = await asyncio.to_thread(scram_verifier, password.get_secret_value(), iterations)
            await alter(connection, name, [sql.SQL("LOGIN PASSWORD"), sql.Literal(verifier)])
            key_id = new_key_id(name)
            await note(connection, name, others, Mark(key_id, job_id, now))
            for role in pair.with_key:
                if await sessions_of(connection, role.oid, since=role.created_at):
                    await note_seen(connection, role)
        return key_id, write_secret(key_id, password, self._settings.address_for(user))

    def key_in(self, secret: SecretStr) -> str | None:
        """Return the key's ID in a stored secret; None if Keyturn did not write it."""
        stored = read_secret(secret)
        return None if stored is None else stored.key_id

    async def verify(self, user: str, secret: SecretStr) -> str:
        """Log in where consumers do, and have the rights of the user's group; returns the role.

        Raises:
            NewKeyMissing: the server does not know the role by this password, or it is another server's.
            CloudRefused: it does not let the role in, or the role has not the group's rights.
            CloudUnavailable: it did not answer.
        """
        stored = read_secret(secret)
        if stored is None or stored.role not in self._names(user):
            raise NewKeyMissing("the stored secret is no password of the user's roles")
        own = await self.account()
        login: dict[str, Any] = {
            **self._settings.address_for(user),
            "user": stored.role,
            "password": stored.password.get_secret_value(),
            "application_name": VERIFYING,
        }
        # A role may be read-only by default, which is no standby: `read-write` would refuse it for ever.
        login["target_session_attrs"] = "primary" if pq.version() >= 140_000 else "read-write"
        if self._settings.consumer is not None:
            login["hostaddr"] = None  # it is the address of the executor's own host
        if pq.version() >= 160_000:
            # Where pg_hba.conf says trust or peer, a login proves nothing of the password.
            login["require_auth"] = "scram-sha-256"
        what = f"log in as {stored.role}"
        async with connected(self._settings.database, what, wrong_login=NewKeyMissing, **login) as connection:
            row = await (await connection.execute(_KNOWN_AS, [user])).fetchone()
            known_as, has_group, inherits = row or ("", False, False)
            there = await cluster_of(connection, self._settings)
            if known_as != stored.role or (own.isdigit() and there.isdigit() and own != there):
                raise NewKeyMissing("the new password logs in as another role, or at another server")
            if has_group and not inherits:  # a role with NOINHERIT has the group's rights by SET ROLE
                await connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(user)))
        return str(known_as)

    async def use_of(self, user: str, key_id: str) -> KeyUse:
        """Return whether the role has a session now, or when it had one that was seen during the rotation.

        Unknown if there is none: a program that logs in for a moment, or at a standby, shows at no look. A session that
        is open outlives NOLOGIN: so it shows after the deactivation, too.
        """
        async with connected(self._settings.database, "read sessions") as connection:
            pair = await self._pair(connection, user)
            role = pair.holder_of(key_id)
            if role is None:
                return KeyUse(is_known=False)
            by = await sessions_of(connection, role.oid, since=role.created_at)
        seen = None if role.mark is None else role.mark.seen_at
        if not by:
            return KeyUse(last_used_at=seen, is_known=False)
        now = datetime.now(UTC)
        # Only within a rotation, when both have a password: a dry run, before it, changes nothing.
        if len(pair.with_key) == len(pair.names) and (seen is None or now - seen > SEEN_AGAIN):
            async with changing(self._settings.database, user, pair.names, "note a session") as (connection, anew):
                if (holder := anew.holder_of(key_id)) is not None:
                    await note_seen(connection, holder)
        return KeyUse(last_used_at=now, by=by)

    async def set_active(self, user: str, key_id: str, is_active: bool) -> None:
        """Give the role LOGIN, or take it; sessions that are open stay open."""
        async with changing(self._settings.database, user, self._names(user), "change LOGIN") as (connection, pair):
            role = pair.holder_of(key_id)
            if role is None:
                raise CloudUnavailable("the role's password was deleted since it was listed")
            if role.can_login != is_active:
                await alter(connection, role.name, [sql.SQL("LOGIN" if is_active else "NOLOGIN")])
                # Without LOGIN, a role has a password only if its comment says so.
                await note(connection, role.name, role.others, role.mark or Mark(role.name))

    async def delete(self, user: str, key_id: str) -> None:
        """Delete the role's password and take LOGIN; the role stays, and what others wrote into its comment.

        By the role's bare name, which may mean a later password than it did, only one that is deactivated is deleted.
        """
        async with changing(self._settings.database, user, self._names(user), "delete a password") as (
            connection,
            pair,
        ):
            role = pair.holder_of(key_id)
            if role is None:
                return
            if role.can_login and not is_generated(key_id):
                raise CloudRefused(f"the role {role.name} can log in: its password is deactivated before it is deleted")
            await alter(connection, role.name, [sql.SQL("NOLOGIN PASSWORD NULL")])
            await note(connection, role.name, role.others, None)

    def _names(self, user: str) -> tuple[str, str]:
        first, second = self._settings.suffix_pair
        return user + first, user + second

    async def _pair(self, connection: Connection, user: str) -> Pair:
        pair = await read_pair(connection, user, self._names(user))
        expect_user(pair)
        return pair
