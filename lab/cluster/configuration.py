"""The configuration of one process of a cluster, as Temporal's server reads it (its module's `config/docker.yaml`)."""

import json
from pathlib import Path
from typing import Any

from keyturn.lab.cluster.postgresql import PORT
from keyturn.lab.stack.certificates import SERVER_NAME, Certificates

FRONTEND_PORT = 7233
# By service: the ports of its calls, and of the membership by which the processes find each other.
PORTS = {"frontend": (FRONTEND_PORT, 6933), "history": (7234, 6934), "matching": (7235, 6935), "worker": (7239, 6939)}
# Never to be changed in the life of a cluster. The server's own example has 4, for a trial; production often has 512.
HISTORY_SHARDS = 16
# Of each process, for each of the two databases: seven processes have some 200 of PostgreSQL's 400.
CONNECTIONS = 20


def write_configuration(
    file: Path,
    *,
    ip: str,
    frontend: str,
    database: str,
    password: str,
    certificates: Certificates,
    dynamic: Path,
    archive: Path,
) -> None:
    """Write the configuration of one process, which holds the database's password.

    Args:
        file: is made, for its owner's eyes only.
        ip: where the process listens, and is found by the others.
        frontend: the address of a frontend, for the server's own workflows.
        database: the IP of PostgreSQL.
        password: of its role `temporal`.
        certificates: of the cluster.
        dynamic: the file of the dynamic configuration.
        archive: the folder of archived histories.
    """
    file.touch(mode=0o600)
    file.write_text(
        # Which YAML is, too.
        json.dumps(
            {
                "log": {"stdout": True, "level": "warn"},
                "persistence": {
                    "defaultStore": "default",
                    "visibilityStore": "visibility",
                    "numHistoryShards": HISTORY_SHARDS,
                    "datastores": {
                        "default": {"sql": _store(database, password, "temporal")},
                        "visibility": {"sql": _store(database, password, "temporal_visibility")},
                    },
                },
                "global": {
                    "membership": {"maxJoinDuration": "30s", "broadcastAddress": ip},
                    "tls": _tls(certificates),
                },
                "services": {
                    name: {"rpc": {"grpcPort": calls, "membershipPort": membership, "bindOnIP": ip}}
                    for name, (calls, membership) in PORTS.items()
                },
                "clusterMetadata": _only_cluster(frontend),
                "archival": {"history": _archival(), "visibility": _archival()},
                "namespaceDefaults": {
                    "archival": {
                        kind: {"state": "disabled", "URI": f"file://{archive}/{kind}"}
                        for kind in ("history", "visibility")
                    }
                },
                "publicClient": {"hostPort": f"{frontend}:{FRONTEND_PORT}"},
                "dynamicConfigClient": {"filepath": str(dynamic), "pollInterval": "10s"},
            }
        )
    )


def _only_cluster(frontend: str) -> dict[str, Any]:
    return {
        "enableGlobalNamespace": False,
        "failoverVersionIncrement": 10,
        "masterClusterName": "active",
        "currentClusterName": "active",
        "clusterInformation": {
            "active": {
                "enabled": True,
                "initialFailoverVersion": 1,
                "rpcName": "frontend",
                "rpcAddress": f"{frontend}:{FRONTEND_PORT}",
            }
        },
    }


def _store(database: str, password: str, name: str) -> dict[str, Any]:
    return {
        "pluginName": "postgres12_pgx",
        "databaseName": name,
        "connectAddr": f"{database}:{PORT}",
        "connectProtocol": "tcp",
        "user": "temporal",
        "password": password,
        "maxConns": CONNECTIONS,
        "maxIdleConns": CONNECTIONS,
        "maxConnLifetime": "1h",
    }


def _tls(certificates: Certificates) -> dict[str, Any]:
    """Each side shows a certificate of the cluster's authority: clients, frontends, and the processes to each other."""
    authority, server = str(certificates.authority), certificates.server
    shown = {
        "requireClientAuth": True,
        "certFile": str(server.certificate),
        "keyFile": str(server.key),
        "clientCaFiles": [authority],
    }
    expected = {"serverName": SERVER_NAME, "rootCaFiles": [authority]}
    return {
        "internode": {"server": shown, "client": expected},
        "frontend": {"server": shown, "client": expected},
        "systemWorker": {"certFile": str(server.certificate), "keyFile": str(server.key), "client": expected},
    }


def _archival() -> dict[str, Any]:
    return {
        "state": "enabled",
        "enableRead": True,
        "provider": {"filestore": {"fileMode": "0600", "dirMode": "0700"}},
    }
