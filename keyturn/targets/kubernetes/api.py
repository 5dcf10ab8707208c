"""The API server of a cluster: where it is, who asks, one request a call, and what went wrong by name.

Sources: kubernetes.io/docs/tasks/run-application/access-api-from-pod, kubernetes.io/docs/reference/using-api
(api-concepts, server-side-apply), and the Status object of apimachinery's meta/v1.
"""

import json
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

from keyturn.authorities import public_authorities
from keyturn.execution.errors import CloudRefused, CloudUnavailable
from keyturn.execution.http import Received, VendorHttp
from keyturn.execution.rest import settings_from_environment
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, secure_url
from keyturn.targets.kubernetes.answers import name_of, read_answer, read_listing

MANAGER = "keyturn"
# kubernetes.io/docs/reference/using-api/api-concepts, alternate representations: secrets without their data.
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# 500 objects of a page, whose annotations have 256 KiB at most and some kilobytes as a rule.
MOST_BYTES = 32 << 20
# A header cannot hold more; a token is base64url with dots (RFC 7519), or any word of visible characters.
_TOKEN = re.compile(r"[!-~]{1,16384}")


@dataclass(frozen=True)
class Cluster:
    """Where an API server is, and who asks.

    Attributes:
        url: https, or http on loopback.
        token_file: the bearer token; it is read for each call, because the kubelet replaces it every hour.
        authority_file: the certificate authority of the server; None for the public ones. It is read once.
    """

    url: str
    token_file: Path
    authority_file: Path | None


class KubernetesSettings(BaseSettings):
    """Which cluster, and by which token, outside of a pod."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    url: Annotated[str, AfterValidator(secure_url)] | None = Field(
        default=None,
        alias="KEYTURN_KUBERNETES_URL",
        description="The API server, https://HOST:PORT; the cluster that the executor's pod runs in if not set.",
    )
    token_file: Path | None = Field(
        default=None,
        alias="KEYTURN_KUBERNETES_TOKEN_FILE",
        description="The file of a service account's bearer token; the pod's own if not set. It is read for each call.",
    )
    authorities: Path | None = Field(
        default=None,
        alias="KEYTURN_KUBERNETES_CA_FILE",
        description="The PEM file of the authority of the server's certificate; the pod's own in a pod.",
    )


def cluster_of_environment() -> Cluster:
    """Return the cluster that the environment names, or the one that this pod runs in; raises CloudRefused."""
    settings = settings_from_environment(KubernetesSettings)
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    if settings.url is None and host:
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return Cluster(url, settings.token_file or _ACCOUNT / "token", settings.authorities or _ACCOUNT / "ca.crt")
    if settings.url is None or settings.token_file is None:
        raise CloudRefused("no cluster: set KEYTURN_KUBERNETES_URL and KEYTURN_KUBERNETES_TOKEN_FILE, or run in a pod")
    return Cluster(settings.url, settings.token_file, settings.authorities)


class ClusterApi:
    """One API server, asked once a call."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._http = VendorHttp(
            most_bytes=MOST_BYTES,
            authorities=self._authorities,
            authorities_named="KEYTURN_KUBERNETES_CA_FILE",
            # Proxies of the environment, as kubectl takes them; never for a plain call on loopback.
            trust_env=cluster.url.startswith("https:"),
        )

    async def get(self, url: str) -> dict[str, Any] | None:
        """Return an object; None if there is none. Raises CloudUnavailable, CloudRefused."""
        return await self._ask("GET", url)

    async def list_metadata(self, url: str, query: dict[str, str]) -> dict[str, Any] | None:
        """Return a page of the objects' metadata, and nothing of what is in them.

        None if the page's `continue` has expired: the server forgets it after some minutes.

        Raises:
            CloudUnavailable: no answer, or a fault that passes by itself.
            CloudRefused: the right `list` is missing, or the server answers with whole objects.
        """
        return await self._ask("GET", url, query=query, accept=METADATA_ONLY, read=read_listing)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def apply(self, url: str, intent: dict[str, Any], *, force: bool = False) -> None:
        """Apply our fields of an object, which is created if there is none: those left out are removed.

        Args:
            url: the object's.
            intent: all fields that are to be ours; with `resourceVersion`, only if the object is still of that one.
            force: whether fields of other managers are taken: only where each such manager is ourselves.

        Raises:
            CloudRefused: another manager owns one of the fields, the right is missing, or the object is invalid.
            CloudUnavailable: no answer, or the object has changed since it was read.
        """
        query = {"fieldManager": MANAGER} | ({"force": "true"} if force else {})
        if await self._ask("PATCH", url, query=query, body=intent, kind="application/apply-patch+yaml") is None:
            raise CloudUnavailable(f"{name_of(url)} was deleted since it was read")

    async def merge(self, url: str, change: dict[str, Any]) -> None:
        """Change some fields of an object that exists; raises CloudRefused, CloudUnavailable."""
        kind = "application/merge-patch+json"
        if await self._ask("PATCH", url, query={"fieldManager": MANAGER}, body=change, kind=kind) is None:
            raise CloudRefused(f"{name_of(url)} does not exist")

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        kind: str = "application/json",
        accept: str = "application/json",
        read: Callable[[str, str, Received], dict[str, Any] | None] = read_answer,
    ) -> dict[str, Any] | None:
        headers = {"Authorization": f"Bearer {self._token()}", "Accept": accept, "Content-Type": kind}
        content = None if body is None else json.dumps(body).encode()
        where = self._cluster.url + url
        call = f"{method} {name_of(url)}"
        answer = await self._http.send(call, method, where, headers=headers, params=query, content=content)
        return read(method, url, answer)

    def _authorities(self) -> ssl.SSLContext:
        file = self._cluster.authority_file
        if file is None:
            return public_authorities()
        try:
            return ssl.create_default_context(cafile=str(file))
        except OSError:  # ssl.SSLError is one
            raise CloudRefused(f"{file} is no certificate authority that can be read") from None

    def _token(self) -> str:
        try:
            # ASCII with every other byte visible as one that no token has: no error would quote the file.
            token = self._cluster.token_file.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            token = ""
        if not _TOKEN.fullmatch(token):
            raise CloudRefused(f"{self._cluster.token_file} is no token that can be read")
        return token
