"""What a worker remembers of a provider that is down: a circuit breaker.

Without it, a dead first provider costs each call most of its time.

Where a fleet shares a Redis, its workers share what they learn (`keyturn.llm.shared_outages`).

Closed: it is asked in its turn. After some failures in a row it is open: it is asked last, and so only where no other
one of the route answers. After a while one call tries it in its turn (half open): an answer closes it, another failure
opens it for longer.

The pattern is M. Nygard's (Release It!, "Circuit Breaker"). Libraries of it refuse a call; here it moves to the end.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from keyturn.errors import KeyturnError
from keyturn.llm.errors import ProviderTimeout, ProviderUnavailable

# As many as no bad minute of a sound provider brings in a row; at 64 calls at once they come within one call's time.
FAILURES_TO_OPEN = 5
# An outage lasts minutes: a probe each quarter of one, with jitter, then each minute, finds its end soon enough.
OPEN_SECONDS, LONGEST_SECONDS = 15.0, 60.0

P = TypeVar("P")
Name = tuple[str, str]  # of an endpoint and its model


def _log() -> Any:
    import structlog  # a tenth of the boundary's import, for what a provider's outage alone needs

    return structlog.get_logger("keyturn.llm")


@dataclass
class _Circuit:
    failures: int = 0
    open_until: float | None = None
    seconds: float = OPEN_SECONDS
    is_probed: bool = False


class Outages:
    """The circuits of a worker's providers, by provider and model.

    Args:
        clock: in seconds.
        jitter: a number from 0 to 1, by which workers do not probe in step.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._circuits: dict[Name, _Circuit] = {}
        # What this worker found out and has not published yet: for how many seconds a circuit is open; 0 for closed.
        self._news: dict[Name, tuple[float, float]] = {}

    def in_order(self, route: Sequence[P], name: Callable[[P], Name]) -> Sequence[P]:
        """Return a route as it is to be asked: those whose circuit is open come last."""
        return sorted(route, key=lambda provider: self.is_open(name(provider)))

    def is_open(self, name: Name) -> bool:
        """Return True while a provider is to be asked only if no other one answers."""
        circuit = self._circuits.get(name)
        return circuit is not None and circuit.open_until is not None and self._clock() < circuit.open_until

    def record_attempt(self, name: Name) -> None:
        """Note that a call asks a provider: where its circuit is open or half open, it is the probe.

        Until its answer the others pass it by. A probe that never comes back, such as a cancelled one, is followed by
        another after the same time.
        """
        circuit = self._circuits.get(name)
        if circuit is not None and circuit.open_until is not None:
            circuit.is_probed, circuit.open_until = True, self._clock() + circuit.seconds

    def record_answer(self, name: Name) -> None:
        """Close a circuit: the provider answers, whatever it says."""
        circuit = self._circuits.pop(name, None)
        if circuit is not None and circuit.open_until is not None:
            self._news[name] = (0.0, self._clock())
            _log().info("provider_circuit_closed", provider=name[0], model=name[1])

    def record_failure(self, name: Name, error: KeyturnError) -> None:
        """Count a failure that says that the provider is down; any other one is an answer of its kind."""
        if not isinstance(error, ProviderUnavailable | ProviderTimeout):
            self.record_answer(name)
            return
        circuit = self._circuits.setdefault(name, _Circuit())
        circuit.failures += 1
        was_open = circuit.open_until is not None
        if circuit.failures < FAILURES_TO_OPEN or (was_open and not circuit.is_probed):
            return  # not enough yet; or a call that had started before it was opened
        if was_open:
            circuit.seconds = min(circuit.seconds * 2, LONGEST_SECONDS)
        seconds = circuit.seconds * (0.75 + self._jitter() / 2)
        circuit.open_until, circuit.is_probed = self._clock() + seconds, False
        self._news[name] = (seconds, self._clock())
        _log().warning("provider_circuit_open", provider=name[0], model=name[1], because=error.kind)

    def is_down(self, name: Name) -> bool:
        """Return True if a provider has failed, and has not answered since."""
        circuit = self._circuits.get(name)
        return circuit is not None and circuit.open_until is not None

    def open_now(self) -> list[str]:
        """Return the providers that have failed and have not answered since."""
        return [f"{provider}:{model}" for provider, model in self._circuits if self.is_down((provider, model))]

    def take_news(self) -> dict[Name, tuple[float, float]]:
        """Return what was found out since the last time.

        For how many seconds a circuit is open, 0 where it was closed; and when that was, by this worker's clock.
        """
        news, self._news = self._news, {}
        return news

    def learn_open(self, name: Name, seconds: float) -> None:
        """Open a circuit that another worker opened, for at least so many seconds more."""
        circuit = self._circuits.setdefault(name, _Circuit())
        if circuit.open_until is None:
            circuit.failures = FAILURES_TO_OPEN
            _log().warning(
                "provider_circuit_open", provider=name[0], model=name[1], because="reported_by_another_worker"
            )
        circuit.open_until = max(circuit.open_until or 0.0, self._clock() + seconds)

    def learn_closed(self, name: Name) -> None:
        """Close a circuit that another worker closed: the provider answers."""
        if self.is_down(name):
            del self._circuits[name]
            _log().info("provider_circuit_closed", provider=name[0], model=name[1])
