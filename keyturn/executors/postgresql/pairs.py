"""The two login roles of a user, as the catalog shows them, and the transaction in which they are changed.

pg_authid, which has the passwords, is for superusers only. So a role has a password if it may log in, or if the line of
ours in its comment says so; PostgreSQL has no date of a role or of a password: that line has it.
"""

import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from psycopg import sql
from pydantic import SecretStr

from keyturn.execution.errors import CloudRefused, UserGone
from keyturn.executors.postgresql.connections import Connection, connected
from keyturn.executors.postgresql.names import Mark, read_comment, write_comment

# What is never touched, whatever rights the executor has; whether roles are in the user's group, if it is one.
_ROLES = """
SELECT r.rolname::text, r.oid::bigint, r.rolcanlogin, shobj_description(r.oid, 'pg_authid'),
    CASE WHEN isfinite(r.rolvaliduntil) AND r.rolvaliduntil < '9999-01-01' THEN r.rolvaliduntil END,
    CASE WHEN r.rolname IN (current_user, session_user) THEN 'is the executor''s own role'
        WHEN r.rolreplication THEN 'may replicate'
        WHEN r.rolname LIKE 'pg\\_%%' THEN 'is a predefined role'
        WHEN EXISTS (SELECT FROM pg_catalog.pg_roles s WHERE s.rolsuper AND pg_has_role(r.oid, s.oid, 'MEMBER'))
            THEN 'is a superuser, or may become one' END,
    CASE WHEN NOT g.rolcanlogin THEN pg_has_role(r.oid, g.oid, 'MEMBER') END
FROM pg_catalog.pg_roles r LEFT JOIN pg_catalog.pg_roles g ON g.rolname = %s::text
WHERE r.rolname = ANY(%s::text[])
"""
_LOCK = "SELECT pg_advisory_xact_lock(%s::bigint)"


class Role(NamedTuple):
    """One of the two roles.

    Attributes:
        name: the role's name.
        oid: the role's number.
        can_login: whether it has LOGIN.
        others: what others wrote into its comment.
        mark: Keyturn's line in the comment.
        valid_until: its VALID UNTIL, after which its password is refused; None if it has none before the year 9999.
        untouchable: why it must not be changed; None if it may be.
        in_group: whether it is a member of the user's group; None if there is no such group.
    """

    name: str
    oid: int
    can_login: bool
    others: str | None
    mark: Mark | None
    valid_until: datetime | None
    untouchable: str | None
    in_group: bool | None

    @property
    def key_id(self) -> str | None:
        """Return the ID of its password; None if it has none."""
        if self.mark is not None:
            return self.mark.key_id
        return self.name if self.can_login else None

    @property
    def is_expired(self) -> bool:
        """Return whether its password is refused by now."""
        return self.valid_until is not None and self.valid_until <= datetime.now(UTC)

    @property
    def created_at(self) -> datetime | None:
        """Return when its password was set, if Keyturn set it."""
        return None if self.mark is None else self.mark.created_at


class Pair(NamedTuple):
    """The roles of a user that there are, and the names that they have or would have."""

    user: str
    names: tuple[str, str]
    roles: tuple[Role, ...]

    @property
    def with_key(self) -> tuple[Role, ...]:
        """Return the roles that have a password."""
        return tuple(role for role in self.roles if role.key_id is not None)

    def holder_of(self, key_id: str) -> Role | None:
        """Return the role whose password an ID names; None if it is none's any more."""
        return next((role for role in self.with_key if role.key_id == key_id), None)


async def read_pair(connection: Connection, user: str, names: tuple[str, str]) -> Pair:
    """Return a user's roles; raises CloudRefused if one of them is never to be changed."""
    rows = await (await connection.execute(_ROLES, [user, list(names)])).fetchall()
    roles = tuple(_role(*row) for row in sorted(rows, key=lambda row: names.index(row[0])))
    for role in roles:
        if role.untouchable is not None:
            raise CloudRefused(f"the role {role.name} {role.untouchable}: it is never changed")
    return Pair(user, names, roles)


@asynccontextmanager
async def changing(
    url: SecretStr, user: str, names: tuple[str, str], what: str
) -> AsyncIterator[tuple[Connection, Pair]]:
    """Yield a connection and a user's roles, in a transaction in which no other executor changes them.

    The lock is one of the database that the URL names: executors of one server use the same one. Of two in different
    databases, PostgreSQL lets the second one's ALTER ROLE fail or wait, and not be half done.
    """
    async with connected(url, what) as connection:
        await connection.execute(_LOCK, [_lock_of(user)])
        yield connection, await read_pair(connection, user, names)


async def note(connection: Connection, role: str, others: str | None, mark: Mark | None) -> None:
    """Write a role's comment anew: what others wrote, and our line."""
    statement = sql.SQL("COMMENT ON ROLE {} IS {}").format(
        sql.Identifier(role), sql.Literal(write_comment(others, mark))
    )
    await connection.execute(statement)


async def alter(connection: Connection, role: str, options: Iterable[sql.Composable]) -> None:
    """Change a role's options, such as LOGIN."""
    await connection.execute(sql.SQL("ALTER ROLE {} WITH {}").format(sql.Identifier(role), sql.SQL(" ").join(options)))


async def note_seen(connection: Connection, role: Role) -> None:
    """Write into a role's comment that it has a session now."""
    mark = role.mark or Mark(role.name)
    await note(connection, role.name, role.others, mark._replace(seen_at=datetime.now(UTC)))


def expect_user(pair: Pair) -> None:
    """Check that a user has a role; raises UserGone."""
    if not pair.roles:
        raise UserGone(f"there is no role {' and no role '.join(pair.names)}")


async def free_role(connection: Connection, pair: Pair, *, may_create: bool) -> tuple[str, str | None]:
    """Return the role without a password, and what others wrote into its comment.

    Args:
        connection: in the transaction that changes the pair.
        pair: of which one role at most has a password.
        may_create: whether the role is created where it is absent, as a member of the user's group.

    Raises:
        UserGone, CloudRefused: there is no role that can get a password.
    """
    expect_user(pair)
    free = next((role for role in pair.roles if role.key_id is None), None)
    if free is not None:
        if free.is_expired:
            raise CloudRefused(f"the role {free.name} has a VALID UNTIL that has passed")
        if free.in_group is False:
            raise CloudRefused(f"the role {free.name} is no member of the group {pair.user}")
        return free.name, free.others
    name = next(one for one in pair.names if one != pair.roles[0].name)
    if not may_create or pair.roles[0].in_group is None:
        raise CloudRefused(f"there is no role {name}: create it with NOLOGIN, with the rights of the other one")
    statement = sql.SQL("CREATE ROLE {} WITH NOLOGIN IN ROLE {}")
    await connection.execute(statement.format(sql.Identifier(name), sql.Identifier(pair.user)))
    return name, None


def _role(name: str, oid: int, can_login: bool, comment: str | None, *rest: Any) -> Role:
    others, mark = read_comment(comment, name)
    return Role(name, oid, can_login, others, mark, *rest)


def _lock_of(user: str) -> int:
    digest = hashlib.sha256(f"keyturn:role-pair:{user}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
