"""The URLs of servers in the environment: judged before anything is asked, and shown without their secrets.

A client is made only to look at its options; nothing is sent.
"""

import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Literal
from urllib.parse import unquote

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from redis import RedisError

from app.config import Config, ConfigError
from app.stack import redis_pool
from app.stack.memcached_node import Node
from app.stack.mongodb.connection import POOL_SIZE

Server = Literal["mongodb", "redis", "memcached"]
SERVERS: tuple[Server, ...] = ("mongodb", "redis", "memcached")

# What is no secret, whatever somebody has mistaken it for. All else in a URL is hidden.
USER = re.compile(r"[\w.%+-]*")
_HOST = r"([\w.%-]+|\[[\da-fA-F:.]+\])?(:\d{1,5})?"
HOSTS = re.compile(rf"{_HOST}(,{_HOST})*")
PATH = re.compile(r"[\w./% -]*")  # a database, or a socket
OPTION = re.compile(
    r"(w=(\d+|majority)|db=\d+|[A-Za-z]+=(true|false)|([A-Za-z]+MS|m\w+PoolSize)=\d+|compressors=[\w,]+"
    r"|(replicaSet|authSource|authMechanism|readPreference|appName|client_name)=[\w.-]+"
    r"|(tlsCAFile|tlsCertificateKeyFile|tlsCRLFile|ssl_ca_certs|ssl_certfile|ssl_keyfile)=/[\w./%-]+)?"
)
OPTION_NAME = re.compile(r"[A-Za-z_]+")
HIDDEN = "***"
SEPARATORS = re.compile(r"[^\w.-]+")
LEAST_PIECE = 3  # characters: fewer stand in any sentence


def variable(server: Server) -> str:
    """Return the name of the environment variable for this server."""
    return "FEEDLAB_MEMCACHED" if server == "memcached" else f"FEEDLAB_{server.upper()}_URL"


def urls(config: Config, server: Server) -> tuple[str, ...]:
    """Return the server's URLs. Raises ConfigError where the driver could not use one, or would ignore a part of it."""
    found = _given(config, server)
    try:
        for url in found:
            with suppress(OSError):  # of a file that it names: told by whoever connects
                JUDGES[server](url)
    except (ValueError, KeyError, TypeError, AttributeError, Warning, PyMongoError, RedisError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{variable(server)}: {without_secrets(reason, config)}") from None
    return found


def _given(config: Config, server: Server) -> tuple[str, ...]:
    if server == "memcached":
        return config.memcached
    url = config.mongodb_url if server == "mongodb" else config.redis_url
    return (url,) if url else ()


def _judge_mongodb(url: str) -> None:
    """Raise what the driver raises, or else only warns of before it ignores it, `tls=yes` for instance."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        MongoClient(url, connect=False, maxPoolSize=POOL_SIZE).close()


JUDGES: dict[Server, Callable[[str], object]] = {
    "mongodb": _judge_mongodb,
    "redis": redis_pool.judge,
    "memcached": Node.of,
}


def masked(url: str) -> str:
    """Return the URL as it may be shown: without what may be a password, also where the URL is malformed."""
    return _parted(url)[0]


def without_secrets(text: str, config: Config) -> str:
    """Return a driver's message without the secrets of our URLs, which it may repeat as a whole or in part."""
    hidden = [part for server in SERVERS for url in _given(config, server) for part in _parted(url)[1]]
    wholes = [whole for part in hidden for whole in (part, unquote(part))]
    pieces = {piece for whole in wholes for piece in (whole, *SEPARATORS.split(whole)) if len(piece) >= LEAST_PIECE}
    for piece in sorted(pieces, key=len, reverse=True):
        text = text.replace(piece, HIDDEN)
    return text


def _parted(url: str) -> tuple[str, list[str]]:
    """Return the URL as it may be shown, and the parts of it that may not."""
    hidden: list[str] = []

    def hide(part: str) -> str:
        hidden.append(part)
        return HIDDEN

    def option(text: str) -> str:
        name, equals, value = text.partition("=")
        if OPTION.fullmatch(text):
            return text
        return f"{name}={hide(value)}" if equals and OPTION_NAME.fullmatch(name) else hide(text)

    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    account, at, place = rest.rpartition("@")
    if at:
        user, colon, word = account.partition(":")
        account = f"{user}:{hide(word)}" if colon and USER.fullmatch(user) else f":{hide(account)}"
    hosts, query, options = place.partition("?")
    hosts, slash, path = hosts.partition("/")
    if not HOSTS.fullmatch(hosts):  # then nobody knows what the rest is
        return f"{scheme}{separator}{account}{at}{hide(place)}", hidden
    path = path if PATH.fullmatch(path) else hide(path)
    options = "&".join(map(option, options.split("&")))
    return f"{scheme}{separator}{account}{at}{hosts}{slash}{path}{query}{options}", hidden
