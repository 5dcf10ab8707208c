"""The certificate authorities that servers' certificates are checked against."""

import functools
import os
import ssl

import httpx

from keyturn.errors import SettingsInvalid


@functools.cache
def public_authorities() -> ssl.SSLContext:
    """Return the public authorities, or those of SSL_CERT_FILE or SSL_CERT_DIR, as httpx finds them.

    Reading them takes 40 ms of processor time, so a process reads them once.

    Raises:
        SettingsInvalid: the variable names no file of certificates, or no folder. A folder that does not exist would
            be read as one without certificates, and every server would be refused.
    """
    folder = os.environ.get("SSL_CERT_DIR")
    if folder and not os.environ.get("SSL_CERT_FILE") and not os.path.isdir(folder):
        raise SettingsInvalid("SSL_CERT_DIR: is no folder that can be read")
    try:
        return httpx.create_ssl_context()
    except OSError:  # ssl.SSLError is one
        raise SettingsInvalid("SSL_CERT_FILE: cannot be read, or holds no certificate") from None
