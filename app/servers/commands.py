"""The commands that start each server, on the loopback interface only, and where it listens then."""

import os
import pwd
import socket

from app.servers.programs import Server

LOOPBACK = "127.0.0.1"
REPLICA_SET = "feedlab"
MEMCACHED_MB = "256"  # taken as it is needed: 25,000 full lists


def arguments(server: Server, port: int, *, small: bool, aof: bool) -> list[str]:
    """`small` keeps caches at what a test needs; without `aof` Redis keeps nothing on disk."""
    match server:
        case "mongodb":
            return mongod(port, REPLICA_SET, oplog_mb=64 if small else 512, cache_gb=0.25 if small else 1)
        case "redis":
            return [
                *("--bind", LOOPBACK, "--port", str(port), "--protected-mode", "yes", "--daemonize", "no"),
                *("--dir", ".", "--appendonly", "yes" if aof else "no", "--appendfsync", "everysec", "--save", ""),
                *("--maxmemory-policy", "noeviction"),
            ]
        case "memcached":
            user = ["-u", _unprivileged()] if os.geteuid() == 0 else []  # as root it demands to be told
            return ["-l", LOOPBACK, "-p", str(port), "-U", "0", "-m", MEMCACHED_MB, *user]


def mongod(port: int, replica_set: str, *, oplog_mb: int, cache_gb: float) -> list[str]:
    return [
        *("--dbpath", ".", "--bind_ip", LOOPBACK, "--port", str(port), "--nounixsocket"),
        *("--replSet", replica_set, "--oplogSize", str(oplog_mb), "--wiredTigerCacheSizeGB", str(cache_gb)),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        *("--setParameter", "transactionLifetimeLimitSeconds=5"),  # of a process that was killed in the middle of one
        *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),  # nothing here waits for a handover
    ]


def _unprivileged() -> str:
    return next((user.pw_name for user in pwd.getpwall() if user.pw_name == "nobody"), "root")


def address(server: Server, port: int) -> str:
    match server:
        case "mongodb":
            return f"mongodb://{LOOPBACK}:{port}/?directConnection=true"
        case "redis":
            return f"redis://{LOOPBACK}:{port}/0"
        case "memcached":
            return f"{LOOPBACK}:{port}"


def free_port() -> int:
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return int(s.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is left of our own last run does not count
        try:
            s.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
