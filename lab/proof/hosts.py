"""Hosts of a proof's own: network namespaces on one bridge, each of which can be cut off from the others and healed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


def run_as_root(*command: str) -> bool:
    """Run a command that only root may; returns whether it did."""
    program = shutil.which(command[0])
    if program is None:
        return False
    with suppress(OSError):
        return subprocess.run([program, *command[1:]], check=False, capture_output=True).returncode == 0  # noqa: S603
    return False


@dataclass(frozen=True)
class Host:
    """A network namespace, at `address` of a bridge on which everything else is at `outside`."""

    name: str
    cable: str
    address: str
    outside: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command on this host."""
        return ("ip", "netns", "exec", self.name)

    def cut_off(self) -> None:
        """Let no packet pass, in either direction, without a notice: connections stay open on both sides."""
        run_as_root("ip", "link", "set", self.cable, "down")

    def heal(self) -> None:
        """Let packets pass again."""
        run_as_root("ip", "link", "set", self.cable, "up")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Yield `count` hosts; none where network namespaces may not be made (that needs root and iproute2)."""
    _forget_the_dead()
    tag = f"{os.getpid():x}"
    bridge, network = f"kt{tag}", f"10.213.{os.getpid() % 250}"
    outside = f"{network}.1"
    made: list[Host] = []
    try:
        if run_as_root("ip", "link", "add", bridge, "type", "bridge"):
            ready = run_as_root("ip", "address", "add", f"{outside}/24", "dev", bridge)
            ready = ready and run_as_root("ip", "link", "set", bridge, "up")
            for number in range(count if ready else 0):
                host = Host(f"keyturn-{tag}-{number}", f"kt{tag}o{number}", f"{network}.{number + 2}", outside)
                made.append(host)
                ready = ready and _join(host, bridge, f"kt{tag}i{number}")
            yield made if ready else []
        else:
            yield []
    finally:
        for host in made:
            run_as_root("ip", "netns", "del", host.name)
            run_as_root("ip", "link", "del", host.cable)
        run_as_root("ip", "link", "del", bridge)


def _forget_the_dead() -> None:
    """Remove hosts of runs that were killed before they could."""
    folder = Path("/run/netns")
    for entry in sorted(folder.glob("keyturn-*")) if folder.is_dir() else []:
        tag = entry.name.split("-")[1]
        with suppress(ValueError):
            if Path(f"/proc/{int(tag, 16)}").exists():
                continue
            run_as_root("ip", "netns", "del", entry.name)
            run_as_root("ip", "link", "del", f"kt{tag}")


def _join(host: Host, bridge: str, inner: str) -> bool:
    """Make a host's namespace and join it to the bridge."""
    inside = ("ip", "-n", host.name)
    steps = (
        ("ip", "netns", "add", host.name),
        ("ip", "link", "add", host.cable, "type", "veth", "peer", "name", inner),
        ("ip", "link", "set", inner, "netns", host.name),
        ("ip", "link", "set", host.cable, "master", bridge, "up"),
        (*inside, "address", "add", f"{host.address}/24", "dev", inner),
        (*inside, "link", "set", inner, "up"),
        (*inside, "link", "set", "lo", "up"),
    )
    return all(run_as_root(*step) for step in steps)
