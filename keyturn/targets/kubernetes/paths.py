"""A path of the target: `NAMESPACE/SECRET?key=ENTRY&restart=deployment/NAME,statefulset/NAME`. Pure.

Nothing in it is decoded: no name of Kubernetes has a character that a URL would need to encode, so that a `%` or a
second `?` is a mistake, or an attempt to leave the path.
Source of the names: kubernetes.io/docs/concepts/overview/working-with-objects/names.
"""

import re
from dataclasses import dataclass
from typing import NoReturn

from keyturn.execution.errors import TargetUnusable

COPY_SUFFIX = "-keyturn-previous"
# The plural, as the API's URLs have it, of what may be restarted.
PLURALS = {"deployment": "deployments", "statefulset": "statefulsets", "daemonset": "daemonsets"}
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_ENTRY = re.compile(r"(?!\.\.?$|\.\.)[A-Za-z0-9._-]{1,253}")
_LONGEST_NAME = 253


@dataclass(frozen=True)
class Workload:
    """What reads the Secret when its pods start, and is restarted for a new one."""

    kind: str
    namespace: str
    name: str

    @property
    def url(self) -> str:
        """Return where the API server has it."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/{PLURALS[self.kind]}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class SecretPath:
    """A Secret, the one entry that holds the text (None: an entry a field), and what is restarted for it."""

    namespace: str
    name: str
    entry: str | None
    workloads: tuple[Workload, ...]

    @property
    def copy(self) -> str:
        """Return the name of the Secret that holds the secret before."""
        return self.name + COPY_SUFFIX

    def url(self, name: str) -> str:
        """Return where the API server has a Secret of the namespace."""
        return f"/api/v1/namespaces/{self.namespace}/secrets/{name}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def is_entry(name: str) -> bool:
    """Whether an entry of a Secret may be called so (`IsConfigMapKey` of Kubernetes)."""
    return _ENTRY.fullmatch(name) is not None


def parse_path(path: str) -> SecretPath:
    """Return what a path names; raises TargetUnusable."""
    place, mark, query = path.partition("?")
    namespace, slash, name = place.partition("/")
    if not slash or not _LABEL.fullmatch(namespace) or not _is_name(name, _LONGEST_NAME - len(COPY_SUFFIX)):
        _refuse(path, "is no NAMESPACE/SECRET: both are lower-case letters, digits and '-', as Kubernetes has names")
    if name.endswith(COPY_SUFFIX):
        _refuse(path, f"names a copy: what ends with {COPY_SUFFIX} holds the secret before of another Secret")
    options = _options(path, query) if mark else {}
    entry = options.get("key")
    if entry is not None and not is_entry(entry):
        _refuse(path, "has a `key` that cannot be an entry of a Secret: letters, digits, '-', '_' and '.'")
    workloads = (
        tuple(_workload(path, namespace, one) for one in options["restart"].split(","))
        if options.get("restart")
        else ()
    )
    if len(set(workloads)) < len(workloads):
        _refuse(path, "restarts a workload twice")
    return SecretPath(namespace, name, entry, workloads)


def _options(path: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if name not in {"key", "restart"} or not equals or not value or name in options:
            _refuse(path, "has a query other than key=ENTRY and restart=KIND/NAME,KIND/NAME, each once")
        options[name] = value
    return options


def _workload(path: str, namespace: str, text: str) -> Workload:
    kind, _, name = text.partition("/")
    if kind not in PLURALS or not _is_name(name, _LONGEST_NAME):
        _refuse(path, f"restarts what is no {', '.join(f'{kind}/NAME' for kind in PLURALS)}")
    return Workload(kind, namespace, name)


def _is_name(name: str, longest: int) -> bool:
    return len(name) <= longest and _SUBDOMAIN.fullmatch(name) is not None


def _refuse(path: str, reason: str) -> NoReturn:
    raise TargetUnusable(f"kubernetes:{path[:400]} {reason}")
