"""Clients of servers on this machine."""

from typing import Any

import httpx


def loopback_client(base_url: str = "", **options: Any) -> httpx.AsyncClient:
    """Return a client of a server on this machine: plain HTTP, no proxy, and no certificate authorities to read.

    Args:
        base_url: what its paths are relative to.
        options: further arguments of `httpx.AsyncClient`.
    """
    return httpx.AsyncClient(base_url=base_url, trust_env=False, verify=False, **options)  # noqa: S501 - no TLS here
