"""The certificate authorities that servers' certificates are checked against."""

import functools
import os
import re
import ssl

import httpx

from keyturn.errors import SettingsInvalid

# How OpenSSL finds a certificate in a folder: by the hash of whose it is.
_BY_HASH = re.compile(r"[0-9a-f]{8}\.\d+")


@functools.cache
def public_authorities() -> ssl.SSLContext:
    """Return the public authorities, or those of SSL_CERT_FILE or SSL_CERT_DIR, as httpx finds them.

    Reading them takes 40 ms of processor time, so a process reads them once.

    Raises:
        SettingsInvalid: the variable names no file of certificates, or no folder of them. OpenSSL would take such a
            folder for one that is empty, and refuse every server.
    """
    folders = os.environ.get("SSL_CERT_DIR", "").split(os.pathsep)
    if any(folders) and not os.environ.get("SSL_CERT_FILE") and not any(map(_has_certificates, folders)):
        raise SettingsInvalid("SSL_CERT_DIR: no folder of it has certificates by their hash (`openssl rehash`)")
    try:
        return httpx.create_ssl_context()
    except OSError:  # ssl.SSLError is one
        raise SettingsInvalid("SSL_CERT_FILE: cannot be read, or holds no certificate") from None


def _has_certificates(folder: str) -> bool:
    try:
        return any(map(_BY_HASH.fullmatch, os.listdir(folder))) if folder else False
    except OSError:
        return False
