"""Sessions: a cookie counts where it was made, for whom, and as long as its token does."""

from datetime import timedelta

import pytest
import time_machine
from pydantic import SecretStr

from keyturn.tokens import Tokens
from keyturn.web.sessions import SESSION_SECONDS, Sessions
from tests.support.cases import NOW
from tests.support.keys import NEWER, OLDER, ring

LUNA, OTHER = "luna_token_of_the_tests_0123456789abcdef", "another_token_of_the_tests_0123456789ab"


def sessions(token: str = LUNA, *, purpose: str = "desk", place: str = "a", key: str = NEWER) -> Sessions:
    return Sessions(ring(key), Tokens({"luna": SecretStr(token)}), purpose=purpose, place=place)


def test_a_session_is_its_owners_and_has_an_id_of_its_own() -> None:
    first, second = (sessions().read(sessions().start(LUNA) or "") for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.name, first.id == second.id) == ("luna", False)
    assert sessions().start(OTHER) is None


@pytest.mark.parametrize(
    "other",
    [sessions(purpose="codec"), sessions(place="b"), sessions(OTHER), sessions(key=OLDER)],
    ids=["another kind of server", "another tenant", "a token that was replaced", "another key"],
)
def test_a_copied_cookie_is_nothing_elsewhere(other: Sessions) -> None:
    cookie = sessions().start(LUNA) or ""
    assert sessions().read(cookie) is not None
    assert other.read(cookie) is None


def test_a_session_ends_after_its_hours() -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        cookie = sessions().start(LUNA) or ""
        clock.move_to(NOW + timedelta(seconds=SESSION_SECONDS - 1))
        assert sessions().read(cookie) is not None
        clock.move_to(NOW + timedelta(seconds=SESSION_SECONDS))
        assert sessions().read(cookie) is None


@pytest.mark.parametrize("cookie", ["", "x", "v1", "\0", "é" * 500])
def test_what_is_no_session_is_none(cookie: str) -> None:
    assert sessions().read(cookie) is None
