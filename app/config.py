"""Every setting, its default and its limits. The one place that reads the environment."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from ipaddress import ip_address, ip_network
from re import fullmatch
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

log = logging.getLogger(__name__)

DAY_S = 86_400
MEMCACHED_LONGEST_TTL_S = 30 * DAY_S  # above it Memcached reads a TTL as a date

LAST_PORT = 65_535
OLDEST_MONGODB = (5, 3)  # clustered collections

PREFIX = "FEEDLAB_"
LISTS = ("memcached", "allowed_hosts", "trusted_proxies")  # with commas


class ConfigError(Exception):
    """A setting in the environment is wrong; the text names it."""


@contextmanager
def files_of(variable: str) -> Iterator[None]:
    """Raise ConfigError where a driver cannot use a file that a URL names: it reads the certificates when it is given
    the URL.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{variable}: a file that it names cannot be used: {error}") from None


def name_that_dns_can_have(host: str) -> None:
    """Raise ValueError for a name that DNS cannot have. Drivers find out when they connect, and not all of them call it
    an error of theirs.
    """
    if "%" not in host:  # a socket, or the zone of an address
        host.encode("idna")


def _url(text: str) -> str:
    """Return a URL that names a host and, if any, a port that there is; several hosts have commas between them. A
    ValueError says what is wrong without the URL: it may hold a password.
    """
    if not (text.isprintable() and "%00" not in text and _names_its_hosts(text)):
        raise ValueError("no host and port can be read in it; / ? # @ : in a password are written %2F and so on")
    return text


def _names_its_hosts(text: str) -> bool:
    try:
        url = urlsplit(text)
        hosts = [urlsplit(f"//{host}") for host in url.netloc.rpartition("@")[2].split(",")]
        for host in hosts:
            name_that_dns_can_have(host.hostname or "")
        return all((host.hostname or url.scheme == "unix") and host.port != 0 for host in hosts)
    except ValueError:
        return False


def _name_of_ours(text: str) -> str:
    """Return the name of a host as a request's is compared with it. Raises ValueError for what is none."""
    name = text.lower().rstrip(".").strip("[]")
    if not fullmatch(r"\*|[a-z0-9_.-]+", name):
        try:
            ip_address(name)
        except ValueError:
            raise ValueError(
                f"{text!r} is no name of a host as DNS has it: write feed.example, without https:// and without a port"
            ) from None
    return name


def _network(text: str) -> str:
    """Return the network that an address or a network with an address in it means. Raises ValueError for what is
    neither.
    """
    try:
        return text if text == "*" else str(ip_network(text, strict=False))
    except ValueError:
        raise ValueError(
            f"{text!r} is neither an address nor a network: write 192.0.2.10 or 10.0.0.0/8, or * for any"
        ) from None


def _address(text: str) -> str:
    """Return host:port as it is given. Raises ValueError for a port that there is not."""
    if not fullmatch(r"\S+:[1-9]\d{0,4}", text) or int(text.rpartition(":")[2]) > LAST_PORT:
        raise ValueError(f"{text!r} is no host:port: write 127.0.0.1:9400, with a port up to {LAST_PORT}")
    return text


def _node(text: str) -> str:
    """Return where a node of Memcached is. A ValueError does not repeat it: it may be a part of a password."""
    if not fullmatch(r"memcacheds://[^/?]+:\d+(\?ssl_ca_certs=/.+)?|[^/]+:\d+|/.+", text):
        raise ValueError(
            "an entry is no node: write host:port, memcacheds://host:port?ssl_ca_certs=/FILE or the path of a socket"
        )
    return text


Url = Annotated[str, AfterValidator(_url)]


class Config(BaseModel):
    """Settings of one process. `FEEDLAB_<FIELD IN CAPITALS>` in the environment sets a field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mongodb_url: Url | None = None
    redis_url: Url | None = None
    memcached: tuple[Annotated[str, AfterValidator(_node)], ...] = ()  # comma-separated
    database: str = Field(default="feedlab", pattern=r"^[A-Za-z0-9_-]{1,63}$")  # it is in names of Redis keys and jobs
    memcached_prefix: str = Field(
        default="", pattern=r"^[A-Za-z0-9_:-]{0,100}$", description="before each of our keys in Memcached"
    )
    redis_aof: bool = Field(default=True, description="whether the Redis that is started keeps its queue on disk")

    cap: int = Field(default=800, ge=1, le=10_000, description="entries kept per home timeline")
    chunk: int = Field(
        default=150,
        ge=1,
        le=20_000,
        description="followers served by one step of phase 3: more take less processor time, and others wait longer",
    )
    list_chunk: int = Field(
        default=4_000, ge=1, le=20_000, description="the same in phases 4, 5 and 6, which are faster"
    )
    inline_chunk: int = Field(
        default=20_000, ge=1, le=50_000, description="followers served by one command while the poster of phase 2 waits"
    )
    pending_scan: int = Field(
        default=50, ge=1, le=5_000, description="pending statuses that a read looks at before it asks whose they are"
    )
    pull_from: int = Field(
        default=1_000, ge=1, description="active followers from which on phase 6 weighs whether to pull an author"
    )
    pull_beyond: int = Field(
        default=50_000, ge=1, description="active followers beyond which phase 6 pulls whom it knows to be heavy"
    )
    comeback: Literal["auto", "manual"] = Field(
        default="auto", description="who rebuilds a cold timeline: the read, or a button"
    )

    timeline_ttl_s: int = Field(default=3 * DAY_S, ge=60, le=MEMCACHED_LONGEST_TTL_S)
    activity_slack_s: int = Field(
        default=3_600, ge=10, description="how much longer a reader is active than their list lives"
    )
    lease_s: int = Field(default=10, ge=1, le=300, description="a rebuild that takes longer is given up")
    grace_s: float = Field(
        default=2.0, ge=1.0, le=60, description="rule 3: how long old settings may still be acted on"
    )
    settings_age_s: float = Field(
        default=0.5, gt=0, le=0.5, description="oldest copy of the phase settings that may be used"
    )

    metrics: Annotated[str, AfterValidator(_address)] | None = Field(
        default=None,
        description="host:port where the first process of a command answers Prometheus; each other has the next port",
    )
    server_timeout_s: float = Field(
        default=5.0,
        gt=0,
        le=60,
        description="longest wait of one request for servers; of each step where a password is hashed, a stream opened "
        "or an export sent, or of a page for operators",
    )
    allowed_hosts: tuple[Annotated[str, AfterValidator(_name_of_ours)], ...] = Field(
        default=(), description="our names, comma-separated; empty: any, and in demo mode only those that no DNS has"
    )
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        default=(), description="addresses and networks, comma-separated, whose X-Forwarded-For and -Proto are believed"
    )
    token_days: int = Field(default=30, ge=1, le=365)
    following_limit: int = Field(default=10_000, ge=1, le=10_000, description="people whom one person can follow")
    writes_per_minute: int = Field(default=6_000, ge=1, description="per signed-in person")
    pictures_per_hour: int = Field(
        default=600,
        ge=1,
        description="uploaded by one signed-in person: kept for a day, and sent for as long as messages",
    )
    renames_per_hour: int = Field(
        default=1_000, ge=1, description="of one signed-in person: after each, all processes look names up anew"
    )
    streams_per_minute: int = Field(
        default=300,
        ge=1,
        description="opened by one signed-in person, and as many tickets; ten that come back every 3 s are 200",
    )
    refused_streams_per_minute: int = Field(
        default=600,
        ge=1,
        description="of strangers, per network address; then nothing more of theirs is looked up",
    )
    live_connections: int = Field(default=5_000, ge=1, description="live streams of one web process")
    sign_ins_per_minute: int = Field(default=600, ge=1, description="per network address")
    sign_ups_per_minute: int = Field(default=60, ge=1, description="per network address")
    failed_sign_ins_per_minute: int = Field(default=10, ge=1, description="per handle and network address or device")
    failed_sign_ins_per_handle: int = Field(
        default=100, ge=1, description="per minute, from all addresses and devices that the person has not used before"
    )
    demo: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **overrides: object) -> Self:
        """Read `FEEDLAB_*`. Raises ConfigError naming every variable that is wrong.

        An unknown variable is logged and ignored: the prefix is not ours alone (Kubernetes sets FEEDLAB_PORT for a
        Service of that name).
        """
        given: dict[str, object] = {}
        for name, text in environment.items():
            if name.startswith(PREFIX) and text:
                field = name.removeprefix(PREFIX).lower()
                if field not in cls.model_fields:
                    _ignored(name)
                    continue
                given[field] = tuple(filter(None, map(str.strip, text.split(",")))) if field in LISTS else text
        try:
            return cls.model_validate(given | overrides)
        except ValidationError as error:
            told = ((str(e["loc"][0]).upper(), e["msg"].removeprefix("Value error, ")) for e in error.errors())
            lines = (f"{PREFIX}{name}: {text}" for name, text in told)
            raise ConfigError("; ".join(lines)) from None


@cache
def _ignored(name: str) -> None:
    """Log that a variable is ignored, once in each process."""
    nearest = get_close_matches(name.removeprefix(PREFIX).lower(), Config.model_fields, 1)
    instead = f"; there is {PREFIX}{nearest[0].upper()}" if nearest else ""
    log.warning("feedlab: %s is no setting and is ignored%s", name, instead)


def environment_for(settings: Mapping[str, str]) -> dict[str, str]:
    """Return our environment for a process of ours that is to have just these settings (`FEEDLAB_*`) and no others."""
    return {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)} | dict(settings)


def at_a_screen(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the person who runs this sits before a desktop that can show a browser."""
    windows = sys.platform in ("darwin", "win32") or any(map(environment.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return windows and "SSH_CONNECTION" not in environment
