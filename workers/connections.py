"""The limits of a server's connections: how long a request's head may take, and how many one peer may open. Pure."""

from collections import Counter
from collections.abc import Callable

# A client sends its head at once; over the worst line it is some round trips. A half-sent head occupies a place.
HEAD_SECONDS = 10.0
# Of 2,000 at the desk: a browser opens six, a stream each page included; an office of two hundred readers is one peer.
PER_PEER = 500


class Peers:
    """The connections of one server, by the peer's address.

    Args:
        is_exempt: whether a peer may open as many as it likes, as a proxy does for all of its users.
    """

    def __init__(self, is_exempt: Callable[[str], bool] = lambda _peer: False) -> None:
        self._held: Counter[str] = Counter()
        self._is_exempt = is_exempt

    def admit(self, peer: str) -> bool:
        """Count one more of `peer`, and return whether it may stay; it leaves in either case."""
        self._held[peer] += 1
        return self._held[peer] <= PER_PEER or self._is_exempt(peer)

    def leave(self, peer: str) -> None:
        """Count one less of `peer`."""
        self._held[peer] -= 1
        if self._held[peer] <= 0:
            del self._held[peer]
