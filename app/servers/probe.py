"""A server asked for its version and process number: at start-up, when our own child must answer, and for `doctor`."""

import re
import socket
from dataclasses import dataclass
from typing import Any

import redis
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from app.servers.urls import Server
from app.stack.memcached_node import Node
from app.stack.outage import briefly
from app.stack.queue import connect


class NoAnswer(Exception):
    """The server does not answer, or not as it should; the text is the reason that it or the driver gave."""


@dataclass(frozen=True)
class Answer:
    version: str
    pid: int | None  # None where the account may not ask


def ask(server: Server, url: str, timeout_s: float) -> Answer:
    """Return version and process of the server at `url` (Memcached: host:port, or the path of its socket).

    Raises NoAnswer.
    """
    match server:
        case "mongodb":
            return _ask_mongodb(url, timeout_s)
        case "redis":
            return _ask_redis(url, timeout_s)
        case "memcached":
            return _ask_memcached(url, timeout_s)


def mongodb_client(url: str, timeout_s: float, **others: Any) -> MongoClient[dict[str, Any]]:
    """Return a client whose every step waits at most `timeout_s`; `others`, PyMongo's options, may override that."""
    steps = ("serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS")
    return MongoClient(url, **(dict.fromkeys(steps, int(timeout_s * 1000)) | others))


def dial(address: str, timeout_s: float) -> socket.socket:
    """Return a connection to a node of Memcached, or to any other socket by its absolute path.

    Raises OSError, ValueError.
    """
    where = Node.of(address)
    if not isinstance(where.address, str):
        plain = socket.create_connection(where.address, timeout_s)
        return where.tls.wrap_socket(plain, server_hostname=where.address[0]) if where.tls else plain
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _ask_mongodb(url: str, timeout_s: float) -> Answer:
    try:
        with mongodb_client(url, timeout_s) as client:
            return Answer(str(client.admin.command("buildInfo")["version"]), None)
    except (PyMongoError, OSError, ValueError) as error:  # also of a file that its URL names
        raise NoAnswer(briefly(error)) from None


def _ask_redis(url: str, timeout_s: float) -> Answer:
    try:
        with connect(url, timeout_s, tries=1) as client:
            client.ping()  # refused while it still reads its files, and may die of them
            info = client.info("server")
    except (redis.RedisError, OSError, ValueError) as error:
        raise NoAnswer(str(error)) from None
    pid = info.get("process_id")
    return Answer(str(info.get("redis_version", "unknown")), int(pid) if pid else None)


def _ask_memcached(node: str, timeout_s: float) -> Answer:
    try:
        with dial(node, timeout_s) as connection:
            connection.sendall(b"stats\r\n")
            said = b""
            while not said.endswith(b"END\r\n"):
                part = connection.recv(65_536)
                if not part or len(said) > 1_000_000:
                    raise NoAnswer(f"{node} does not speak the Memcached protocol")
                said += part
    except (OSError, ValueError) as error:
        raise NoAnswer(f"{node}: {error}") from None
    stats = dict(re.findall(r"STAT (\w+) (\S+)", said.decode(errors="replace")))
    return Answer(stats.get("version", "unknown"), int(stats.get("pid", 0)))
