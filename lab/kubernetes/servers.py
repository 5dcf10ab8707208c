"""Kubernetes' API server with etcd and the controllers, on an address of loopback of its own, over TLS.

There are no nodes: what is applied is admitted, defaulted and stored as on any cluster, controllers make its pods, and
the pods wait, unless a node is played (`nodes.py`).
"""

import asyncio
import json
import os
import secrets
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import SecretStr

from keyturn.lab.kubernetes.programs import build_kubernetes
from keyturn.lab.stack.certificates import Certificates, write_certificates
from keyturn.lab.stack.network import free_network
from keyturn.lab.stack.processes import StackNotStarted, child

_SERVICES, _SERVICE_IP = "10.96.0.0/16", "10.96.0.1"  # what pods call the server by
_PORT, _ETCD_PORT, _ETCD_PEER_PORT, _CONTROLLERS_PORT = 6443, 2379, 2380, 10257
# The server makes its first objects in some 5 s; a loaded machine takes longer.
START_SECONDS = 90.0


@dataclass(frozen=True)
class Kubernetes:
    """An API server that runs.

    Attributes:
        url: where it is.
        authority: the file of its certificate's authority.
        token: an administrator's bearer token.
        kubeconfig: a file by which Helm and the like reach it as that administrator.
        folder: of logs and data.
    """

    url: str
    authority: Path
    token: SecretStr
    kubeconfig: Path
    folder: Path

    def client(self) -> httpx.AsyncClient:
        """Return an administrator's client, to be closed by its caller."""
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {self.token.get_secret_value()}"},
            verify=ssl.create_default_context(cafile=str(self.authority)),
            timeout=30,  # of a server that has just started, on a loaded machine
        )


@asynccontextmanager
async def kubernetes(*, controllers: bool = True) -> AsyncIterator[Kubernetes]:
    """Yield an API server without a node; raises StackNotStarted. Its data end with it.

    Args:
        controllers: whether Kubernetes' own controllers run; without them a test plays what they say.
    """
    if sys.platform != "linux":
        raise StackNotStarted("Kubernetes' programs run on Linux alone here, where each has an address on loopback")
    programs = await asyncio.to_thread(build_kubernetes)
    with tempfile.TemporaryDirectory(prefix="keyturn-kubernetes-", ignore_cleanup_errors=True) as name:
        async with AsyncExitStack() as running:
            yield await _start(programs, Path(name), running, controllers=controllers)


async def _start(programs: Path, folder: Path, running: AsyncExitStack, *, controllers: bool) -> Kubernetes:
    ip = free_network(_PORT).ip(1)
    made = write_certificates(folder / "certificates", [ip, _SERVICE_IP])
    token = secrets.token_urlsafe(32)
    tokens = _private(folder / "tokens.csv", f'{token},administrator,1,"system:masters"\n')
    kubeconfig = _write_kubeconfig(folder / "kubeconfig", f"https://{ip}:{_PORT}", made.authority, token)
    server = Kubernetes(f"https://{ip}:{_PORT}", made.authority, SecretStr(token), kubeconfig, folder)

    async def start(program: str, arguments: Sequence[str]) -> asyncio.subprocess.Process:
        command = [str(programs / program), *arguments]
        return await running.enter_async_context(child(command, log=folder / f"{program}.log", folder=folder))

    await start("etcd", _of_etcd(folder, ip, made))
    await _ready(server, await start("kube-apiserver", _of_api_server(ip, made, tokens)))
    if controllers:
        await start("kube-controller-manager", _of_controllers(folder, ip, made, kubeconfig))
    return server


def _of_etcd(folder: Path, ip: str, made: Certificates) -> Sequence[str]:
    own, peer = f"https://{ip}:{_ETCD_PORT}", f"https://{ip}:{_ETCD_PEER_PORT}"
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={own}",
        f"--advertise-client-urls={own}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
        "--unsafe-no-fsync",  # its data do not outlive it
        # Every local user reaches loopback, and etcd has every Secret in it.
        *(f"--{side}client-cert-auth" for side in ("", "peer-")),
        *(f"--{side}trusted-ca-file={made.authority}" for side in ("", "peer-")),
        *(f"--{side}cert-file={made.server.certificate}" for side in ("", "peer-")),
        *(f"--{side}key-file={made.server.key}" for side in ("", "peer-")),
    ]


def _of_api_server(ip: str, made: Certificates, tokens: Path) -> Sequence[str]:
    return [
        f"--etcd-servers=https://{ip}:{_ETCD_PORT}",
        f"--etcd-cafile={made.authority}",
        f"--etcd-certfile={made.client.certificate}",
        f"--etcd-keyfile={made.client.key}",
        f"--bind-address={ip}",
        f"--advertise-address={ip}",
        f"--secure-port={_PORT}",
        f"--tls-cert-file={made.server.certificate}",
        f"--tls-private-key-file={made.server.key}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        # The tokens of service accounts are signed by the server's own key: one less to make.
        f"--service-account-signing-key-file={made.server.key}",
        f"--service-account-key-file={made.server.certificate}",
        f"--service-cluster-ip-range={_SERVICES}",
        "--endpoint-reconciler-type=none",  # an address of loopback is no endpoint of the Service `kubernetes`
    ]


def _of_controllers(folder: Path, ip: str, made: Certificates, kubeconfig: Path) -> Sequence[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={ip}",
        f"--secure-port={_CONTROLLERS_PORT}",
        f"--cert-dir={folder / 'controllers'}",
        f"--root-ca-file={made.authority}",
        f"--service-account-private-key-file={made.server.key}",
        "--leader-elect=false",  # there is one
    ]


def _write_kubeconfig(file: Path, url: str, authority: Path, token: str) -> Path:
    return _private(
        file,
        # Which YAML is, too.
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "here", "cluster": {"server": url, "certificate-authority": str(authority)}}],
                "users": [{"name": "administrator", "user": {"token": token}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "administrator"}}],
                "current-context": "here",
            }
        ),
    )


def _private(file: Path, text: str) -> Path:
    file.touch(mode=0o600)
    file.write_text(text)
    return file


async def _ready(server: Kubernetes, process: asyncio.subprocess.Process) -> None:
    """Wait until the API server has made its own first objects; raises StackNotStarted."""
    async with server.client() as http:
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while process.returncode is None:
                    with suppress(httpx.HTTPError):
                        if (await http.get("/readyz")).status_code == httpx.codes.OK:
                            return
                    await asyncio.sleep(0.2)
    last = (server.folder / "kube-apiserver.log").read_text(errors="replace").strip().splitlines()[-1:]
    how = "is not ready" if process.returncode is None else f"ended with status {process.returncode}"
    raise StackNotStarted(f"kube-apiserver {how}: {''.join(last)[:500]}{os.linesep}")
