"""What a worker remembers of a provider that is down: a circuit breaker.

Without it, a dead first provider costs each call most of its time.

Closed: it is asked in its turn. After some failures in a row it is open: it is asked last, and so only where no other
one of the route answers. After a while one call tries it in its turn (half open): an answer closes it, another failure
opens it for longer.

The pattern is M. Nygard's (Release It!, "Circuit Breaker"). Libraries of it refuse a call; here it moves to the end.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from keyturn.errors import KeyturnError, ProviderTimeout, ProviderUnavailable

_log = structlog.get_logger("keyturn.llm")
# As many as no bad minute of a sound provider brings in a row; at 64 calls at once they come within one call's time.
FAILURES_TO_OPEN = 5
# An outage lasts minutes: a probe each quarter of one, with jitter, then each minute, finds its end soon enough.
OPEN_SECONDS, LONGEST_SECONDS = 15.0, 60.0

P = TypeVar("P")


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
        self._circuits: dict[tuple[str, str], _Circuit] = {}

    def in_order(self, route: Sequence[P], name: Callable[[P], tuple[str, str]]) -> Sequence[P]:
        """Return a route as it is to be asked: those whose circuit is open come last."""
        return sorted(route, key=lambda provider: self.is_open(name(provider)))

    def is_open(self, name: tuple[str, str]) -> bool:
        """Return True while a provider is to be asked only if no other one answers."""
        circuit = self._circuits.get(name)
        return circuit is not None and circuit.open_until is not None and self._clock() < circuit.open_until

    def asking(self, name: tuple[str, str]) -> None:
        """Note that a call asks a provider: where its circuit is open or half open, it is the probe.

        Until its answer the others pass it by. A probe that never comes back, such as a cancelled one, is followed by
        another after the same time.
        """
        circuit = self._circuits.get(name)
        if circuit is not None and circuit.open_until is not None:
            circuit.is_probed, circuit.open_until = True, self._clock() + circuit.seconds

    def answered(self, name: tuple[str, str]) -> None:
        """Close a circuit: the provider answers, whatever it says."""
        circuit = self._circuits.pop(name, None)
        if circuit is not None and circuit.open_until is not None:
            _log.info("provider_circuit_closed", provider=name[0], model=name[1])

    def failed(self, name: tuple[str, str], error: KeyturnError) -> None:
        """Count a failure that says that the provider is down; any other one is an answer of its kind."""
        if not isinstance(error, ProviderUnavailable | ProviderTimeout):
            self.answered(name)
            return
        circuit = self._circuits.setdefault(name, _Circuit())
        circuit.failures += 1
        was_open = circuit.open_until is not None
        if circuit.failures < FAILURES_TO_OPEN or (was_open and not circuit.is_probed):
            return  # not enough yet; or a call that had begun before it was opened
        if was_open:
            circuit.seconds = min(circuit.seconds * 2, LONGEST_SECONDS)
        circuit.open_until = self._clock() + circuit.seconds * (0.75 + self._jitter() / 2)
        circuit.is_probed = False
        _log.warning("provider_circuit_open", provider=name[0], model=name[1], because=error.kind)

    def open_now(self) -> list[str]:
        """Return the providers that have failed and have not answered since."""
        opened = [name for name, one in self._circuits.items() if one.open_until is not None]
        return [f"{provider}:{model}" for provider, model in opened]
