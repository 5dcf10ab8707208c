"""The certificate authorities that servers' certificates are checked against."""

import functools
import ssl

import httpx


@functools.cache
def public_authorities() -> ssl.SSLContext:
    """Return the public authorities, or those of SSL_CERT_FILE or SSL_CERT_DIR, as httpx finds them.

    Reading them takes 40 ms of processor time, so a process reads them once.
    """
    return httpx.create_ssl_context()
