"""The commands that start each server on a Unix socket and on no port, and the address that it then has.

Whoever can enter the socket's directory can do everything: there is no password. See DataDirectory.sockets.
"""

import os
from pathlib import Path
from urllib.parse import quote

from app.servers.urls import Server

REPLICA_SET = "feedlab"
MEMCACHED_MB = "256"  # taken as it is needed: 25,000 full lists


def arguments(server: Server, at: Path, *, small: bool, aof: bool) -> list[str]:
    """Return the command line of a server on the socket `at`.

    `small` keeps caches at what a test needs; without `aof` Redis keeps nothing on disk.
    """
    match server:
        case "mongodb":
            return mongod(at, REPLICA_SET, oplog_mb=64 if small else 512, cache_gb=0.25 if small else 1)
        case "redis":
            return [
                *("--port", "0", "--unixsocket", str(at), "--unixsocketperm", "700", "--daemonize", "no"),
                *("--dir", ".", "--appendonly", "yes" if aof else "no", "--appendfsync", "everysec", "--save", ""),
                *("--maxmemory-policy", "noeviction"),
            ]
        case "memcached":
            user = ["-u", "root"] if os.geteuid() == 0 else []  # it demands to be told, and another could not enter
            return ["-s", str(at), "-a", "0700", "-m", MEMCACHED_MB, *user]


# For so long MongoDB keeps index entries that were removed, and a look at what is pending goes past all of them. Its
# default of 300 s is for queries that page through an old snapshot, as a backup does.
HISTORY_S = 10


def mongod(at: Path, replica_set: str, *, oplog_mb: int, cache_gb: float) -> list[str]:
    return [
        *("--dbpath", ".", "--bind_ip", str(at), "--nounixsocket"),  # none but this one
        *("--replSet", replica_set, "--oplogSize", str(oplog_mb), "--wiredTigerCacheSizeGB", str(cache_gb)),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        *("--setParameter", "transactionLifetimeLimitSeconds=5"),  # of a process that was killed in the middle of one
        *("--setParameter", f"minSnapshotHistoryWindowInSeconds={HISTORY_S}"),
        *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),  # nothing here waits for a handover
    ]


def address(server: Server, at: Path) -> str:
    match server:
        case "mongodb":
            return f"mongodb://{quote(str(at), safe='')}/?directConnection=true"
        case "redis":
            return f"unix://{quote(str(at))}?db=0"
        case "memcached":
            return str(at)
