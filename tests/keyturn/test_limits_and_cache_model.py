"""The token limit and the cached responses against small models of them, over hours that pass in an instant."""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import time_machine
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyturn.cache.key import CacheKey
from keyturn.cache.sql import SqlCache
from keyturn.call_errors import CostCapExceeded, TokenLimitReached
from keyturn.database import database_url, open_database
from keyturn.ledger.token_limit import SlidingTokenLimit
from keyturn.workers.schema import migrate

BEGAN = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
LIMIT = 100
USERS = st.sampled_from(["luna", "omar"])


class OverHours(RuleBasedStateMachine):
    """A machine whose clock stands still until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.Runner()
        self._clock = time_machine.travel(BEGAN, tick=False)
        self._time = self._clock.start()
        self.now = BEGAN

    def teardown(self) -> None:
        self._clock.stop()
        self._loop.close()

    def _pass(self, time: timedelta) -> None:
        self.now += time
        self._time.move_to(self.now)


class TokenLimit(OverHours):
    """`taken` is the model: by user, when how many tokens were taken, less those given back."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = SlidingTokenLimit(LIMIT)
        self.taken: dict[str, list[tuple[datetime, int]]] = {"luna": [], "omar": []}
        self.receipts: list[tuple[object, str, int, datetime]] = []

    @rule(user=USERS, tokens=st.integers(1, LIMIT))
    def reserve(self, user: str, tokens: int) -> None:
        """What fits into an empty two hours is always given, and what is refused fits at the time that is named."""
        recent = sum(n for at, n in self.taken[user] if self.now - at < timedelta(hours=2))
        try:
            receipt = self._loop.run(self.limit.reserve(user, tokens))
        except TokenLimitReached as refused:
            assert recent + tokens > LIMIT, "the sliding window reaches two hours back at most"
            self._pass((refused.retry_at or BEGAN) - self.now)
            receipt = self._loop.run(self.limit.reserve(user, tokens))
        self.taken[user].append((self.now, tokens))
        self.receipts.append((receipt, user, tokens, self.now))

    @rule(part=st.floats(0, 1))
    def give_back(self, part: float) -> None:
        """What was not used is there again at once."""
        if not self.receipts:
            return
        receipt, user, tokens, at = self.receipts.pop()
        if self.now - at > timedelta(minutes=5):  # a call takes seconds
            return
        unused = int(tokens * part)
        self._loop.run(self.limit.give_back(receipt, user, unused))
        self.taken[user].append((at, -unused))

    @rule(user=USERS)
    def ask_for_too_much(self, user: str) -> None:
        """More than the whole limit is never given, and takes nothing."""
        try:
            self._loop.run(self.limit.reserve(user, LIMIT + 1))
        except CostCapExceeded:
            return
        raise AssertionError("it was given")

    @rule(minutes=st.integers(1, 90))
    def wait(self, minutes: int) -> None:
        self._pass(timedelta(minutes=minutes))

    @invariant()
    def nobody_has_more_than_the_limit_within_a_clock_hour(self) -> None:
        """The window that is counted now is the clock's hour; the one before weighs by what is left of it."""
        hour = self.now.replace(minute=0, second=0, microsecond=0)
        for user, taken in self.taken.items():
            within = sum(n for at, n in taken if at >= hour)
            assert within <= LIMIT, f"{user} has {within}"


class KeptAnswers(OverHours):
    """`kept` is the model: by key, the answer and when it expires."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        url = database_url(f"sqlite:///{Path(self._folder.name) / 'k.db'}")
        migrate(url)
        self._engine = open_database(url)
        self.cache = SqlCache(self._engine)
        self.kept: dict[CacheKey, tuple[str, datetime]] = {}

    def teardown(self) -> None:
        self._loop.run(self._engine.dispose())
        self._folder.cleanup()
        super().teardown()

    keys = st.builds(
        lambda task, prompt, number: CacheKey(task, prompt, "c1", f"{task}-{prompt}-{number}"),
        st.sampled_from(["decide", "summarize_scan"]),
        st.sampled_from(["p1", "p2"]),
        st.integers(1, 2),
    )

    def _valid(self, key: CacheKey) -> str | None:
        answer, until = self.kept.get(key, ("", self.now))
        return answer if until > self.now else None

    @rule(key=keys, answer=st.sampled_from(["one", "two"]), minutes=st.integers(1, 120))
    def keep(self, key: CacheKey, answer: str, minutes: int) -> None:
        """The first answer stays until it expires."""
        self._loop.run(self.cache.store(key, answer, timedelta(minutes=minutes)))
        if self._valid(key) is None:
            self.kept[key] = (answer, self.now + timedelta(minutes=minutes))

    @rule(asked=st.lists(keys, min_size=1, max_size=4, unique=True))
    def find(self, asked: list[CacheKey]) -> None:
        """The first of those asked for that is cached, and nothing that has expired."""
        there = ((place, self._valid(key)) for place, key in enumerate(asked))
        expected = next(((place, answer) for place, answer in there if answer is not None), None)
        assert self._loop.run(self.cache.find(asked)) == expected

    @rule(task=st.sampled_from([None, "decide"]), prompt=st.sampled_from([None, "p1"]), expired=st.booleans())
    def clear(self, task: str | None, prompt: str | None, expired: bool) -> None:
        """What fits all that is named, and no other."""
        gone = [
            key
            for key in self.kept
            if (task is None or key.task == task)
            and (prompt is None or key.prompt_version == prompt)
            and (not expired or self._valid(key) is None)
        ]
        named: dict[str, Any] = {"task": task, "prompt_version": prompt, "expired_only": expired}
        assert self._loop.run(self.cache.clear(**named)) == len(gone)
        for key in gone:
            del self.kept[key]

    @rule(minutes=st.integers(1, 90))
    def wait(self, minutes: int) -> None:
        self._pass(timedelta(minutes=minutes))


TestTokenLimit = TokenLimit.TestCase
TestKeptAnswers = KeptAnswers.TestCase
for each in (TestTokenLimit, TestKeptAnswers):
    each.settings = settings(max_examples=25, stateful_step_count=30, deadline=None, database=None)
