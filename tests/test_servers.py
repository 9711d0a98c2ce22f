"""Where servers come from, and that they start, stay, and end with their owner."""

import errno
import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.server import HTTPServer
from pathlib import Path
from random import Random
from unittest.mock import Mock
from urllib.parse import unquote, urlsplit

import psutil
import pytest
from click.testing import CliRunner
from pymongo import MongoClient
from redis import Redis

from app import serve
from app.cli import main
from app.config import Config
from app.servers import borrow, children, programs, start
from app.servers.borrow import owner_servers, running_servers, servers_of
from app.servers.children import Child, Stop, stop_together
from app.servers.commands import HISTORY_S
from app.servers.datadir import DataDirectory, InUse, Note, ProcessId
from app.servers.primary import make_primary
from app.servers.probe import NoAnswer, ask
from app.servers.programs import ServersError, Source, insist, resolve
from app.servers.urls import SERVERS, Server, masked, without_secrets
from app.stack.mongodb.whole import WINDOW
from tests.conftest import free_port, real_servers
from tests.serving import Answer
from tests.waiting import until

SERVING = (sys.executable, str(Path(__file__).with_name("serving.py")))
URLS = {
    "FEEDLAB_MONGODB_URL": "mongodb://127.0.0.1:9/",
    "FEEDLAB_REDIS_URL": "redis://127.0.0.1:9/0",
    "FEEDLAB_MEMCACHED": "127.0.0.1:9",
    "FEEDLAB_SERVER_TIMEOUT_S": "0.2",
}
BY_URL = Config.from_environment(URLS)
NOTHING = Config.from_environment({})
DEADLINE_S = 30.0


# Where a server comes from


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to be $PATH."""
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PACKAGES", {})


def program(folder: Path, server: Server, says: str, code: int = 0) -> Path:
    path = folder / programs.PROGRAMS[server]
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return path


def kinds(sources: tuple[Source, ...]) -> dict[str, str]:
    return {source.server: source.kind for source in sources}


def test_a_url_wins_over_a_program(folder: Path) -> None:
    program(folder, "redis", "Redis server v=7.2.4 sha=00000000:0")
    config = Config.from_environment({"FEEDLAB_REDIS_URL": "redis://somewhere/0"})
    source = resolve(config, "auto", str(folder))[1]
    assert (source.kind, source.urls) == ("url", ("redis://somewhere/0",))


@pytest.mark.usefixtures("no_packages")
def test_a_program_wins_over_a_stand_in_server_by_server(folder: Path) -> None:
    found = program(folder, "memcached", "memcached 1.6.18")
    sources = resolve(NOTHING, "auto", str(folder))
    assert kinds(sources) == {"mongodb": "stand-in", "redis": "stand-in", "memcached": "program"}
    assert (sources[2].program, sources[2].version) == (found, "1.6.18")


@pytest.mark.usefixtures("no_packages")
def test_a_mongod_without_clustered_collections_is_not_used(folder: Path) -> None:
    program(folder, "mongodb", "db version v5.2.9")
    assert resolve(NOTHING, "auto", str(folder))[0].kind == "stand-in"
    program(folder, "mongodb", "db version v5.3.0")
    assert resolve(NOTHING, "auto", str(folder))[0].version == "5.3.0"


def test_a_package_helps_out_for_an_old_program(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(folder, "mongodb", "db version v4.4.1")
    package = tmp_path / "packages" / "withmongod"
    (package / "bin").mkdir(parents=True)
    packaged = program(package / "bin", "mongodb", "db version v6.0.5")
    packaged.chmod(0o644)  # as some installers leave it
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(programs, "PACKAGES", {"mongodb": ("withmongod", "bin")})
    source = resolve(NOTHING, "auto", str(folder))[0]
    assert (source.kind, source.program, source.version) == ("package", packaged, "6.0.5")


@pytest.mark.usefixtures("no_packages")
def test_a_program_that_does_not_run_is_named(folder: Path) -> None:
    broken = program(folder, "redis", "error while loading shared libraries", code=127)
    source = resolve(NOTHING, "auto", str(folder))[1]
    assert source.kind == "stand-in"
    assert source.advice is not None
    assert f"{broken} does not run: error while loading shared libraries" in source.advice


def test_urls_only_names_every_missing_variable() -> None:
    config = Config.from_environment({"FEEDLAB_REDIS_URL": "redis://somewhere/0"})
    with pytest.raises(ServersError, match=r"FEEDLAB_MONGODB_URL.*FEEDLAB_MEMCACHED") as refused:
        insist(resolve(config, "urls"))
    assert "FEEDLAB_REDIS_URL" not in str(refused.value)


@pytest.mark.usefixtures("no_packages")
def test_real_servers_only_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = resolve(NOTHING, "servers", str(folder))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert programs.install_hint("memcached") == "brew install memcached"
    with pytest.raises(ServersError, match=r"Memcached: .*install.* memcached, or set FEEDLAB_MEMCACHED"):
        insist(sources)


def test_memory_takes_stand_ins_even_where_urls_are_set() -> None:
    assert set(kinds(resolve(BY_URL, "memory")).values()) == {"stand-in"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://ada:se:cret@db/?w=1", "mongodb://ada:***@db/?w=1"),
        ("redis://:secret@cache:6379/0", "redis://:***@cache:6379/0"),
        ("127.0.0.1:11211", "127.0.0.1:11211"),
        ("redis://:s3cr3t#x@cache:6379/0", "redis://:***@cache:6379/0"),
        ("redis://:s3cr3t/x@cache", "redis://:***@cache"),
        ("redis://:s3cr3t?x@cache", "redis://:***@cache"),
        ("redis://:s3cr3t@x@cache", "redis://:***@cache"),
        ("redis://s3cr3t@cache", "redis://:***@cache"),
        ("redis://:s3cr3t", "redis://***"),
        ("redis://:s3cr3t#x/0", "redis://***"),
        ("redis://:x?s3cr3t", "redis://***"),
        ("redis://:x/s3cr3t", "redis://***"),
        ("redis://ada:x@y:s3cr3t", "redis://ada:***@***"),
        ("mongodb://db/?w=s3cr3t#x&tls=true&maxIdleTimeMS=5", "mongodb://db/?w=***&tls=true&maxIdleTimeMS=5"),
        ("mongodb://db/?w=1;password=s3cr3t", "mongodb://db/?w=***"),
        ("mongodb://db/?s3cr3t", "mongodb://db/?***"),
        ("mongodb://db/$s3cr3t?w=majority", "mongodb://db/***?w=majority"),
        ("mongodb://db/?tlsCAFile=/etc/a.pem&tlsCertificateKeyFilePassword=s3cr3t", None),
        ("redis://cache/0?password=s3cr3t&db=1", "redis://cache/0?password=***&db=1"),
        ("mongodb://ada:s3cr3t:x@[::1", "mongodb://ada:***@***"),
        ("mongodb://s3cr3t/x:y@db", "mongodb://:***@db"),
        ("mongodb://db/?replicaSet=r&authMechanismProperties=AWS_SESSION_TOKEN:s3cr3t", None),
        ("mongodb://a:1,[::1]:2,c/?replicaSet=r", "mongodb://a:1,[::1]:2,c/?replicaSet=r"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("mongodb://%2Frun%2Fmongod.sock/", "mongodb://%2Frun%2Fmongod.sock/"),
        ("ada:s3cr3t@cache:11211", "ada:***@cache:11211"),
        ("/srv/my data/memcached.sock", "/srv/my data/memcached.sock"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str | None) -> None:
    assert "s3cr3t" not in masked(url)
    assert shown is None or masked(url) == shown


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mongodb://ada:s3cr3t@db", "no user ada with s3cr3t"),
        ("mongodb://ada:s3cr3t%23x@db", "bad: 's3cr3t#x'"),
        ("mongodb://ada:s3cr3t%23x@db", "Port could not be cast to integer value as 's3cr3t'"),
        ("mongodb://db/?uuidRepresentation=s3cr3t", "s3cr3t is an invalid UUID representation"),
        ("mongodb://db/$s3cr3t", 'Bad database name "$s3cr3t"'),
    ],
)
def test_a_driver_may_repeat_a_password_and_we_do_not(url: str, said: str) -> None:
    shown = without_secrets(said, Config(mongodb_url=url))
    assert "s3cr3t" not in shown
    assert shown.split()[0] in (said.split()[0], "***"), "and all the rest"


def test_what_is_no_secret_is_said() -> None:
    """A file that cannot be read, a host that is away, a time that was too short."""
    options = "tlsCAFile=/etc/a.pem&timeoutMS=500&retryWrites=true&appName=feedlab&readPreference=primary"
    config = Config(mongodb_url=f"mongodb://ada:pw@db:1/?{options}", redis_url="redis://r/?client_name=redis")
    said = "ada@db:1: /etc/a.pem took 500 ms, which is true of pwd: not primary, see feedlab doctor"
    assert without_secrets(said, config) == said


# The data directory


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    with directory.owned("serving", lasting=True):
        with pytest.raises(InUse, match=rf"in use by process {os.getpid()} \(serving\)"):
            DataDirectory(tmp_path / "data").owned("too", lasting=True).__enter__()
        assert directory.owner() is not None
        assert directory.path.stat().st_mode & 0o777 == 0o700
        assert (directory.path / "servers.json").stat().st_mode & 0o777 == 0o600
    assert directory.owner() is None
    with directory.owned("again", lasting=True):
        pass


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The clock steps by an hour, as that of a machine that was asleep: the kernel tells another time of its boot."""

    def step() -> None:
        booted = psutil.boot_time() + 3_600
        monkeypatch.setattr("psutil._psplatform.boot_time", lambda: booted)

    return step


def test_an_owner_is_known_whatever_the_clock_says(tmp_path: Path, stepped: Callable[[], None]) -> None:
    directory = DataDirectory(tmp_path)
    with directory.owned("serving", lasting=True):
        directory.change(mongodb="mongodb://m", redis="redis://r", memcached=("c:1",), ready=True)
        stepped()
        assert directory.owner() == directory.note()
        with servers_of(tmp_path, NOTHING) as addresses:
            assert addresses == owner_servers(tmp_path, NOTHING)
    assert directory.owner() is None


def test_the_note_of_a_killed_owner_is_nobody_elses(tmp_path: Path) -> None:
    """Its number may be another process's by now, and another owner may be about to start."""
    directory, me = DataDirectory(tmp_path), ProcessId.of(os.getpid())
    directory.write(Note(owner=me, ready=True, lasting=True))
    assert directory.owner() is None
    (tmp_path / "lock").write_text(f"{os.getppid()}\n")
    with (tmp_path / "lock").open() as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        assert directory.owner() is None


def test_whoever_looks_for_an_owner_keeps_nobody_from_being_it(tmp_path: Path) -> None:
    directory, began = DataDirectory(tmp_path), threading.Event()
    with directory.owned("before", lasting=True):
        pass

    def own() -> None:
        began.set()
        with directory.owned("next", lasting=True):
            assert directory.owner() is not None

    with ThreadPoolExecutor(1) as pool:
        with (tmp_path / "lock").open() as looked_at:
            fcntl.flock(looked_at, fcntl.LOCK_SH)
            owning = pool.submit(own)
            began.wait(DEADLINE_S)
            time.sleep(0.1)
        owning.result(DEADLINE_S)


def as_now(process: ProcessId) -> ProcessId:
    return process


def as_before(process: ProcessId) -> ProcessId:
    """As an older version noted it."""
    return ProcessId.model_validate(process.model_dump(include={"pid", "created"}))


@pytest.mark.parametrize("noted", [as_now, as_before])
def test_what_a_killed_owner_left_running_is_stopped_and_nobody_else(
    tmp_path: Path, noted: Callable[[ProcessId], ProcessId]
) -> None:
    directory = DataDirectory(tmp_path)
    with sleeper() as left, sleeper() as other:
        try:
            one, reused = ProcessId.of(left.pid), ProcessId.of(other.pid)
            assert one is not None
            assert reused is not None
            before = {"created": reused.created - 60, "after_boot": reused.after_boot - 60}
            children = {"redis": noted(one), "memcached": noted(reused.model_copy(update=before))}
            directory.write(Note(children=children))
            with directory.owned("next", lasting=True):
                assert left.wait(DEADLINE_S) == -signal.SIGTERM
                assert other.poll() is None
        finally:
            left.kill()
            other.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the date of a start")
def test_what_a_killed_owner_left_running_is_stopped_whatever_the_clock_says(
    tmp_path: Path, stepped: Callable[[], None]
) -> None:
    directory = DataDirectory(tmp_path)
    with sleeper() as left:
        try:
            directory.child_started("redis", left.pid)
            stepped()
            with directory.owned("next", lasting=True):
                assert left.wait(DEADLINE_S) == -signal.SIGTERM
        finally:
            left.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell one boot from another")
def test_a_process_of_another_boot_is_not_what_was_left_running(tmp_path: Path) -> None:
    """As many seconds after each boot the same number may be another program's."""
    directory = DataDirectory(tmp_path)
    with sleeper() as other:
        try:
            found = ProcessId.of(other.pid)
            assert found is not None
            directory.write(Note(children={"redis": found.model_copy(update={"boot": "the last one"})}))
            with directory.owned("next", lasting=True):
                assert other.poll() is None
        finally:
            other.kill()


def test_a_directory_that_others_can_enter_is_tightened_or_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with DataDirectory(tmp_path).owned("serving", lasting=True):
        assert tmp_path.stat().st_mode & 0o777 == 0o700
    tmp_path.chmod(0o1777)  # as /tmp is
    with pytest.raises(ServersError, match="not a directory of yours alone"):
        DataDirectory(tmp_path).owned("serving", lasting=True).__enter__()
    assert list(tmp_path.iterdir()), "nothing in it was touched"


def test_what_runs_for_a_directory_is_nothing_to_its_copy(tmp_path: Path) -> None:
    original, copied = DataDirectory(tmp_path / "data"), DataDirectory(tmp_path / "copy")
    with sleeper() as child, original.owned("serving", lasting=True):
        original.child_started("redis", child.pid)
        original.change(mongodb="mongodb://m", redis="redis://r", memcached=("c:1",), ready=True)
        shutil.copytree(original.path, copied.path)
        try:
            assert original.owner() is not None
            assert copied.owner() is None
            with copied.owned("another", lasting=True):
                assert child.poll() is None, "it belongs to the original"
        finally:
            child.kill()


@pytest.fixture
def interrupted(tmp_path: Path) -> DataDirectory:
    """A data directory whose demo was interrupted while it was filled: there are people, and no statuses."""
    directory = DataDirectory(tmp_path)
    with directory.owned("feedlab serve", lasting=True):
        directory.change(demo_unfinished=True)
    return directory


def test_a_start_that_does_not_come_to_the_filling_forgets_no_interrupted_demo(interrupted: DataDirectory) -> None:
    with _listening() as taken:
        plan = serve.Plan(interrupted.path, port=taken.getsockname()[1], level="memory")
        with pytest.raises(ServersError, match="Address already in use"):
            serve.serve(plan, Config(demo=True))
    assert interrupted.note().demo_unfinished


def test_a_demo_on_stand_ins_forgets_no_interrupted_demo(
    interrupted: DataDirectory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def announced(self: serve._Serving) -> None:
        self.stop.on_signal(signal.SIGTERM, None)

    monkeypatch.setattr(serve._Serving, "_announce", announced)
    monkeypatch.setattr(serve, "SMALL_DEMO", (10, 2, 10))
    assert serve.serve(serve.Plan(interrupted.path, port=0, level="memory"), Config(demo=True)) == 0
    assert "making 10 people" in capfd.readouterr().err
    assert interrupted.note().demo_unfinished


def test_whoever_has_another_mongodb_forgets_no_interrupted_demo(interrupted: DataDirectory) -> None:
    with interrupted.owned("feedlab serve", lasting=True), start.started(interrupted, resolve(BY_URL), Stop()):
        assert interrupted.note().demo_unfinished


@pytest.mark.servers
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("demo", [True, False])
def test_what_others_did_to_an_interrupted_demo_is_not_erased(interrupted: DataDirectory, demo: bool) -> None:
    sources = resolve(NOTHING, "servers")
    with (
        interrupted.owned("feedlab serve", lasting=True),
        start.started(interrupted, sources, Stop(), small=True, demo=demo),
    ):
        assert interrupted.note().demo_unfinished == demo
    assert interrupted.note().demo_unfinished == demo


def test_a_damaged_note_is_no_note(tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text('{"owner": {"pid"')
    assert DataDirectory(tmp_path).note() == Note()


def test_urls_and_memory_need_no_directory(tmp_path: Path) -> None:
    with servers_of(tmp_path / "data", BY_URL) as addresses:
        assert addresses.memcached == ("127.0.0.1:9",)
    with servers_of(tmp_path / "data", NOTHING, "memory") as addresses:
        assert addresses.one_process
    assert not (tmp_path / "data").exists()


def test_a_command_uses_the_servers_that_run(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with directory.owned("serving", lasting=True):
        directory.change(mongodb="mongodb://m", redis="redis://r", memcached=("c:1",), ready=True)
        with servers_of(tmp_path, NOTHING) as addresses:
            assert addresses == owner_servers(tmp_path, NOTHING)
            assert (addresses.mongodb, addresses.redis, addresses.memcached) == ("mongodb://m", "redis://r", ("c:1",))


@pytest.mark.usefixtures("no_packages")
def test_a_command_that_waits_asks_no_program_again(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To run three programs takes as long as a pause does."""
    asked = tmp_path / "asked"
    for server in SERVERS:
        program(folder, server, "v9.9").write_text(f"#!/bin/sh\necho {server} >> '{asked}'\necho v9.9\n")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(borrow, "BORROW_DEADLINE_S", 0.5)
    waiting = servers_of(tmp_path / "data", NOTHING)
    with DataDirectory(tmp_path / "data").owned("another command", lasting=False), pytest.raises(InUse):
        waiting.__enter__()
    assert asked.read_text().split() == list(SERVERS)


def test_stand_ins_of_another_process_cannot_be_used(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with directory.owned("serving", lasting=True):
        directory.change(mongodb="mongodb://m", redis=None, memcached=("c:1",), ready=True)
        with (
            pytest.raises(ServersError, match=f"inside process {os.getpid()}"),
            servers_of(tmp_path, NOTHING),
        ):
            pass


# Children


@pytest.fixture
def said() -> list[str]:
    return []


WAITS = "import signal; print('grinding', flush=True); signal.pause()"


def child(tmp_path: Path, said: list[str], code: str, patience: int = 10) -> Child:
    command = (sys.executable, "-c", code)
    return Child("mill", command, tmp_path / "mill.log", say=said.append, gave_up=said.append, patience=patience)


def test_a_child_that_dies_is_named_and_started_again(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "FIRST_PAUSE_S", 0.01)
    mill = child(tmp_path, said, WAITS)
    mill.start()
    try:
        until(lambda: mill.said("GRINDING"), "it runs")
        first = mill.pid
        mill.watch()
        os.kill(first, signal.SIGKILL)
        until(lambda: mill.pid != first, "it runs again")
        assert len(said) == 1
        assert f"mill (process {first}) was killed by SIGKILL" in said[0]
        assert f"{tmp_path / 'mill.log'}; last line: grinding" in said[0]
    finally:
        stop_together([mill])
    assert not psutil.pid_exists(mill.pid)
    assert len(said) == 1, "an end that was asked for is no news"


def test_a_child_that_keeps_dying_is_given_up(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "FIRST_PAUSE_S", 0.01)
    mill = child(tmp_path, said, "import sys; sys.exit('no grain')", patience=3)
    mill.start()
    mill.watch()
    until(lambda: len(said) == 3, "given up")
    assert "Starting it again in 0.0 s" in said[1]
    assert "ended with exit code 1" in said[2]
    assert said[2].endswith("last line: no grain. It died 3 times in a row and is given up.")
    stop_together([mill])


@pytest.fixture
def mill(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """A child that runs, and is started again at once."""
    monkeypatch.setattr(children, "FIRST_PAUSE_S", 0.01)
    mill = child(tmp_path, said, WAITS)
    mill.start()
    try:
        until(lambda: mill.said("grinding"), "it runs")
        yield mill
    finally:
        stop_together([mill])


def test_a_child_that_cannot_be_started_for_now_is_tried_again(mill: Child, tmp_path: Path, said: list[str]) -> None:
    """As when a disk is full for a while."""
    first, log = mill.pid, mill.log
    mill.log = tmp_path / "no such folder" / "mill.log"
    mill.watch()
    os.kill(first, signal.SIGKILL)
    until(lambda: len(said) >= 3, "it is tried again and again")
    assert "mill cannot be started now: " in said[2]
    mill.log = log
    until(lambda: mill.pid != first, "it runs again")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signals")
def test_a_child_that_a_signal_without_a_name_kills_is_started_again(mill: Child, said: list[str]) -> None:
    first = mill.pid
    mill.watch()
    os.kill(first, signal.SIGRTMIN + 1)
    until(lambda: mill.pid != first, "it runs again")
    assert f"was killed by signal {signal.SIGRTMIN + 1}; its log: " in said[0]


def test_a_child_whose_log_cannot_be_read_is_started_again(mill: Child, tmp_path: Path, said: list[str]) -> None:
    first, log = mill.pid, mill.log
    mill.log = tmp_path  # a directory: no file to read, and none to write to
    mill.watch()
    os.kill(first, signal.SIGKILL)
    until(lambda: len(said) >= 2, "its death is told, and that it cannot be started")
    assert said[0] == f"mill (process {first}) was killed by SIGKILL; its log: {tmp_path}. Starting it again in 0.0 s."
    mill.log = log
    until(lambda: mill.pid != first, "it runs again")


def test_a_child_that_cannot_be_noted_runs_all_the_same(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "FIRST_PAUSE_S", 0.01)

    def noted(_name: str, _pid: int) -> None:
        raise ServersError("cannot read servers.json")

    mill = child(tmp_path, said, WAITS)
    mill.started = noted
    mill.start()
    try:
        first = mill.pid
        mill.watch()
        os.kill(first, signal.SIGKILL)
        until(lambda: mill.pid != first, "it runs again")
        until(lambda: len(said) == 3, "all is told")
        assert said[2] == f"mill (process {mill.pid}) is not noted: cannot read servers.json"
    finally:
        stop_together([mill])


def test_whatever_ends_the_watching_is_told(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "FIRST_PAUSE_S", 0.01)
    mill = child(tmp_path, said, WAITS)
    mill.start()
    try:
        first = mill.pid
        mill.environment = {"a name with = in it": ""}  # refused with a ValueError
        mill.watch()
        os.kill(first, signal.SIGKILL)
        until(lambda: len(said) == 2, "it is given up")
        assert said[1].startswith("mill is given up: ValueError: ")
    finally:
        stop_together([mill])


def test_a_log_is_rotated_while_its_child_runs(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_LIMIT", 1_000)
    monkeypatch.setattr(children, "LOG_LOOK_S", 0.01)
    writes = "print('grain' * 1_000, flush=True)"
    waits = "while os.fstat(1).st_size > 1_000: time.sleep(0.01)"
    mill = child(
        tmp_path, said, f"import os, signal, time\n{writes}\n{waits}\nprint('flour', flush=True)\nsignal.pause()"
    )
    mill.start()
    mill.watch()
    try:
        until(lambda: mill.said("flour"), "it goes on at the beginning")
        assert (tmp_path / "mill.log").read_text() == "flour\n"
        assert "grain" in (tmp_path / "mill.log.1").read_text()
    finally:
        stop_together([mill])


def test_a_log_that_somebody_removes_ends_nothing(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As logrotate does. What is written into the next one is kept short, too."""
    monkeypatch.setattr(children, "LOG_LIMIT", 1_000)
    monkeypatch.setattr(children, "LOG_LOOK_S", 0.01)
    mill = child(tmp_path, said, "import signal; print('grain', flush=True); signal.pause()")
    mill.start()
    log = tmp_path / "mill.log"
    until(lambda: mill.said("grain"), "it writes")
    mill.watch()
    try:
        log.unlink()
        time.sleep(0.1)  # looks are taken meanwhile
        log.write_text("flour" * 1_000)
        until(lambda: not log.stat().st_size, "it is cut")
    finally:
        stop_together([mill])
    assert said == []


def test_a_child_is_kept_running_though_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `feedlab serve 2>&1 | head -n 4`."""
    monkeypatch.setattr(children, "FIRST_PAUSE_S", 0.01)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        mill = child(tmp_path, [], WAITS)
        mill.say = start.say
        mill.start()
        try:
            first = mill.pid
            mill.watch()
            os.kill(first, signal.SIGKILL)
            until(lambda: mill.pid != first, "it runs again")
        finally:
            stop_together([mill])
            monkeypatch.undo()
            with suppress(OSError):
                stderr.close()


def test_a_mongod_that_does_not_answer_yet_is_told_in_short(tmp_path: Path) -> None:
    """Without the driver's account of what it takes for servers."""
    at = tmp_path / "mongodb.sock"
    with pytest.raises(NoAnswer, match=f"^{re.escape(str(at))}: ") as refused:
        make_primary(at, 0.1)
    assert "Topology" not in str(refused.value)


def test_the_first_server_that_does_not_start_is_named(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the others are not waited for."""
    monkeypatch.setitem(start.START_DEADLINE_S, "mongodb", 2 * DEADLINE_S)
    silent, broken = program(folder, "mongodb", ""), program(folder, "redis", "no such option", code=1)
    silent.write_text("#!/bin/sh\nexec sleep 999\n")
    sources = (Source("mongodb", "program", program=silent), Source("redis", "program", program=broken))
    directory, stop = DataDirectory(tmp_path / "data"), Stop()
    overdue = threading.Timer(DEADLINE_S, stop.fail, ["the other is waited for"])
    overdue.start()
    with directory.owned("serving", lasting=True):
        with pytest.raises(ServersError, match=r"^redis .* ended with exit code 1; .*; last line: no such option$"):
            start.started(directory, sources, stop).__enter__()
        assert gone(directory.note().children)
    overdue.cancel()
    assert stop.failure is None


@pytest.mark.servers
@pytest.mark.parametrize(
    "spoiled",
    [
        lambda data: data + bytes(3_000),
        lambda data: bytes(len(data)),
        lambda data: data[:9] + Random(1).randbytes(500) + data[9:],  # of some noise Redis crashes
    ],
    ids=["zeros behind", "zeros instead", "noise in it"],
)
def test_jobs_that_redis_cannot_read_any_more_are_set_aside(
    spoiled: Callable[[bytes], bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As after a loss of power. They are queued again from what is pending."""
    with real_servers(), running_servers(tmp_path, NOTHING) as addresses:
        assert addresses.redis
        with Redis.from_url(addresses.redis) as client:
            client.set("a key", "of ours")
    parts = [path for path in (tmp_path / "redis").rglob("*appendonly*") if path.suffix in (".aof", ".rdb")]
    for part in parts:
        part.write_bytes(spoiled(part.read_bytes()))
    with running_servers(tmp_path, NOTHING) as addresses:
        assert addresses.redis
        with Redis.from_url(addresses.redis) as client:
            assert client.dbsize() == 0
    assert "was set aside" in capfd.readouterr().err
    assert [path.name.partition("-")[0] for path in (tmp_path / "redis").glob("damaged-*")] == ["damaged"]


def mongod(source: Source, directory: Path, *options: str) -> Child:
    command = [str(source.program), "--dbpath", ".", "--nounixsocket", *options]
    command += ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"]
    log, english = directory / "log", {"LC_ALL": "C"}
    return Child("mongod", command, log, directory=directory, environment=english, say=print, gave_up=print)


@pytest.mark.servers
def test_a_mongod_that_is_no_replica_set_is_named_with_the_cure(tmp_path: Path) -> None:
    [source] = [source for source in resolve(NOTHING, "servers") if source.server == "mongodb"]
    with real_servers():
        insist((source,))
    port = free_port()
    alone = mongod(source, tmp_path, "--bind_ip", "127.0.0.1", "--port", str(port))
    alone.start()
    try:
        url = f"mongodb://127.0.0.1:{port}/"
        until(lambda: answers(url, "mongodb"), "it answers")
        environment = URLS | {"FEEDLAB_MONGODB_URL": url, "FEEDLAB_SERVER_TIMEOUT_S": "5"}
        for words in (["phases"], ["serve", "--port", "0"], ["worker"], ["seed", "--users", "100", "--yes"]):
            result = CliRunner().invoke(main, [*words, "--data", str(tmp_path / "data")], env=environment)
            assert result.exit_code == 2, result.output
            assert len(result.stderr.splitlines()) == 1 or words[0] == "serve", result.output
            assert "this MongoDB is no replica set" in result.stderr
            assert "--replSet" in result.stderr
        doctor = CliRunner().invoke(main, ["doctor", "--json", "--data", str(tmp_path / "data")], env=environment)
        assert json.loads(doctor.stdout)["servers"][0]["state"] == "unsuitable"
    finally:
        stop_together([alone])


def test_a_child_that_will_not_stop_is_killed(tmp_path: Path, said: list[str]) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    mill = child(tmp_path, said, ignore)
    mill.start()
    until(lambda: mill.said("deaf"), "it runs")
    stop_together([mill], within_s=0.1)
    assert "did not stop in time" in said[0]
    assert not psutil.pid_exists(mill.pid)


def test_a_child_that_stops_after_all_needs_no_killing(tmp_path: Path, said: list[str]) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    mill = child(tmp_path, said, ignore)

    def ends(line: str) -> None:
        said.append(line)
        os.kill(mill.pid, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(mill.pid), "its watcher has seen the end")

    mill.say = ends
    mill.start()
    mill.watch()
    until(lambda: mill.said("deaf"), "it runs")
    stop_together([mill], within_s=0.1)
    assert ["did not stop in time" in line for line in said] == [True]


@contextmanager
def _listening() -> Iterator[socket.socket]:
    with serve._bound("127.0.0.1", 0) as listener:
        listener.listen()
        yield listener


def test_nobody_is_let_in_before_a_web_process_can_answer() -> None:
    """A proxy goes to another one then, however long this one takes to start."""
    with serve._bound("127.0.0.1", 0) as bound, pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such option")
def test_a_connection_ends_when_what_is_sent_does_not_arrive() -> None:
    with (
        _listening() as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == serve.VANISHED_MS


# serve: supervision, with doubles for the web process and the worker


class Serving:
    """A running `serve` in a process of its own."""

    def __init__(self, data: Path, process: subprocess.Popen[str], errors: Path) -> None:
        self.data, self.process, self._errors = data, process, errors

    def ready(self) -> "Serving":
        """Wait for the line that says so, and remember the port it names."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready http://127.0.0.1:"), self.errors
        self.port = int(line.rpartition(":")[2])
        return self

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    @property
    def children(self) -> dict[str, ProcessId]:
        return DataDirectory(self.data).note().children

    def web_pid(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        connection.request("GET", "/readyz")
        try:
            return int(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def serving(data: Path, *options: str, environment: Mapping[str, str] = URLS) -> Iterator[Serving]:
    errors = data.parent / f"errors of {data.name} {time.monotonic_ns()}"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [*SERVING, "serve", "--data", str(data), *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            yield Serving(data, process, errors)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(DEADLINE_S)


def gone(processes: Mapping[str, ProcessId]) -> bool:
    return not any(process.find() for process in processes.values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_everything(tmp_path: Path, number: int, code: int) -> None:
    with serving(tmp_path / "da ta", "--workers", "2") as run:
        processes = run.ready().children
        assert set(processes) == {"web 1", "worker 1", "worker 2"}
        assert run.web_pid() == processes["web 1"].pid
        run.process.send_signal(number)
        assert run.process.wait(DEADLINE_S) == code
        assert gone(processes)
        assert run.children == {}


@pytest.mark.parametrize("name", ["web 1", "worker 1"])
def test_a_web_process_or_worker_that_dies_is_named_and_replaced(tmp_path: Path, name: str) -> None:
    with serving(tmp_path / "data") as run:
        before = run.ready().children[name]
        os.kill(before.pid, signal.SIGKILL)
        until(lambda: run.children[name] != before, f"another {name}")
        assert f"{name} (process {before.pid}) was killed by SIGKILL" in run.errors
        assert run.web_pid() == run.children["web 1"].pid


def test_no_workers_is_allowed(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--workers", "0") as run:
        assert set(run.ready().children) == {"web 1"}


def test_a_web_process_that_cannot_start_ends_it_all(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--web", "broken") as run:
        assert run.process.wait(DEADLINE_S) == 1
        assert "last line: the engine is broken. It died 3 times in a row and is given up." in run.errors
        assert run.process.stdout is not None
        assert run.process.stdout.read() == ""


@contextmanager
def another_with_its_port() -> Iterator[HTTPServer]:
    """Somebody's server on a port that it has, and does not listen on yet: on Linux another may have the same one."""
    with serve._bound("127.0.0.1", 0) as bound, HTTPServer(bound.getsockname(), Answer, False) as other:
        other.socket.close()
        other.socket = bound.dup()
        yield other


@contextmanager
def answering(server: HTTPServer) -> Iterator[None]:
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems let nobody have the same port")
def test_the_answer_of_another_site_is_not_taken_for_ours(tmp_path: Path) -> None:
    with another_with_its_port() as other:
        port = str(other.server_address[1])
        with serving(tmp_path / "data", "--web", "late", "--port", port) as run:
            until(lambda: "web 1" in run.children, "both have the port")
            with answering(other):
                assert run.process.wait(DEADLINE_S) == 1
            assert "Address already in use. It died 3 times in a row and is given up." in run.errors
            assert run.process.stdout is not None
            assert run.process.stdout.read() == "", "nothing is ready"


def test_a_system_that_does_not_say_who_listens_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS, where nobody else can have our port."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with another_with_its_port() as site, answering(site):
        refuses = OSError(errno.ENOPROTOOPT, "Protocol not available")
        listener = Mock(getsockname=site.socket.getsockname, getsockopt=Mock(side_effect=refuses))
        serve._wait_until_ready(listener, lambda: False)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems let nobody have the same port")
def test_in_one_process_too_another_site_is_not_ours(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with another_with_its_port() as other, ExitStack() as stack:

        async def listens(*_: object) -> None:
            stack.enter_context(answering(other))

        monkeypatch.setattr(serve, "_migrated", listens)
        port = int(other.server_address[1])
        assert serve.serve(serve.Plan(tmp_path, port=port, level="memory"), Config()) == 1
    out, errors = capfd.readouterr()
    assert out == caplog.text == ""
    assert errors.splitlines()[-1] == f"feedlab: cannot listen on http://127.0.0.1:{port}: Address already in use"


def test_a_note_of_the_owner_before_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was killed, and in a container the next one has its number."""
    directory, found = DataDirectory(tmp_path), list[Note | None]()
    with directory.owned("before", lasting=True):
        directory.change(ready=True)
        note = directory.note()
    directory.write(note)
    monkeypatch.setattr(DataDirectory, "_stop_leftovers", lambda self: found.append(self.owner()))
    with directory.owned("next", lasting=True):
        pass
    assert [each.ready for each in found if each] == [False]


def test_after_kill_9_the_children_end_and_the_next_start_works(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as run:
        processes = run.ready().children
        run.process.kill()
        run.process.wait(DEADLINE_S)
        until(lambda: gone(processes), "the children end by themselves")
    with serving(tmp_path / "data") as run:
        assert run.ready().web_pid() == run.children["web 1"].pid


# Real servers


@pytest.fixture
def real() -> tuple[Source, ...]:
    """Every server as a program. Where tests must run a missing one is a failure, elsewhere they are skipped."""
    sources = resolve(NOTHING, "servers")
    try:
        insist(sources)
    except ServersError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    return sources


def url_of(note: Note, server: Server) -> str:
    memcached = note.memcached[0] if note.memcached else None
    url = {"mongodb": note.mongodb, "redis": note.redis, "memcached": memcached}[server]
    assert url is not None
    return url


def answers(url: str, server: Server) -> bool:
    with suppress(NoAnswer):
        return bool(ask(server, url, 1.0).version)
    return False


LONG = "a path with spaces, " + "too long for a socket" * 6


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where what is for the time being is made: nobody else on this machine makes anything in it. Its path is short
    enough for sockets, unlike `tmp_path`.
    """
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


@pytest.mark.servers
@pytest.mark.usefixtures("real")
def test_servers_keep_their_data_wherever_their_sockets_are(tmp_path: Path, temporary: Path) -> None:
    data, beside = tmp_path / "data", list[Path]()
    for number, moved in enumerate(("data", "a path with spaces", "with a comma, and: a colon", LONG, "data")):
        data = data.rename(tmp_path / moved) if number else data
        with running_servers(data, NOTHING) as addresses:
            children = DataDirectory(data).note().children
            assert listening(children.values()) == set(), "nothing of it is on a port"
            beside += temporary.glob("feedlab-*/mongodb.sock")
            with MongoClient[dict[str, int]](addresses.mongodb) as client:
                assert client.feedlab.kept.count_documents({}) == number
                client.feedlab.kept.insert_one({"n": number})
                assert client.admin.command({"getParameter": 1, WINDOW: 1})[WINDOW] == HISTORY_S
        assert gone(children)
    assert beside
    assert list(temporary.iterdir()) == []


@pytest.mark.servers
def test_a_data_directory_of_0_1_is_taken_over(tmp_path: Path, real: tuple[Source, ...]) -> None:
    """Its replica set knows its member by host and port, and its note has ports."""
    port, kept = free_port(), tmp_path / "mongodb"
    kept.mkdir()
    before = mongod(real[0], kept, "--bind_ip", "127.0.0.1", "--port", str(port), "--replSet", "feedlab")
    before.start()
    try:
        url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        until(lambda: answers(url, "mongodb"), "it answers")
        with MongoClient[dict[str, int]](url) as client:
            member = {"_id": 0, "host": f"127.0.0.1:{port}"}
            client.admin.command("replSetInitiate", {"_id": "feedlab", "members": [member]})
            until(lambda: client.admin.command("hello")["isWritablePrimary"], "it is the primary")
            client.feedlab.kept.insert_one({"n": 1})
    finally:
        stop_together([before])
    tmp_path.joinpath("servers.json").write_text(json.dumps({"ports": {"mongodb": port, "redis": 1}}))
    with running_servers(tmp_path, NOTHING) as addresses, MongoClient[dict[str, int]](addresses.mongodb) as client:
        assert client.feedlab.kept.count_documents({}) == 1


SOMEBODY_ELSE = """
import json, os, socket, sys
here, *sockets = sys.argv[1:]
def tried(act):
    try:
        act()
    except OSError as error:
        return type(error).__name__
def all_of_it():
    connect = [tried(lambda: socket.socket(socket.AF_UNIX).connect(path)) for path in sockets]
    return [tried(lambda: os.listdir(here)), *connect]
ours = all_of_it()
os.setgroups([]), os.setgid(65534), os.setuid(65534)
print(json.dumps([ours, all_of_it()]))
"""


@pytest.mark.servers
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("name", ["data", LONG])
def test_another_user_of_the_machine_can_neither_connect_nor_look(name: str) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        with running_servers(Path(open_to_all, name), NOTHING) as addresses:
            assert addresses.redis
            assert addresses.memcached
            sockets = [Path(unquote(urlsplit(addresses.redis).path)).with_name(f"{s}.sock") for s in SERVERS]
            assert str(sockets[2]) == addresses.memcached[0]
            assert {path.stat().st_mode & 0o077 for path in (*sockets, sockets[0].parent)} == {0}
            if os.geteuid():
                return  # who is not root cannot be somebody else
            command = [sys.executable, "-c", SOMEBODY_ELSE, str(sockets[0].parent), *map(str, sockets)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert json.loads(said) == [[None] * 4, ["PermissionError"] * 4]


def listening(processes: Iterable[ProcessId]) -> set[str]:
    sockets = [c for p in processes for c in psutil.Process(p.pid).net_connections("inet")]
    return {c.laddr.ip for c in sockets if c.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)}


def restarted(directory: DataDirectory, server: Server, before: ProcessId) -> bool:
    return directory.note().children[server] != before


@pytest.mark.servers
@pytest.mark.usefixtures("real")
def test_a_server_that_dies_comes_back_on_its_socket(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with running_servers(tmp_path, NOTHING):
        directory = DataDirectory(tmp_path)
        for server in SERVERS:
            before = directory.note().children[server]
            os.kill(before.pid, signal.SIGKILL)
            until(partial(restarted, directory, server, before), f"another {server}")
            until(partial(answers, url_of(directory.note(), server), server), f"{server} answers")
            assert f"{server} (process {before.pid}) was killed by SIGKILL" in capfd.readouterr().err


@pytest.mark.servers
@pytest.mark.usefixtures("real")
def test_a_second_serve_is_refused_and_a_killed_one_is_cleaned_up_after(tmp_path: Path) -> None:
    no_urls = dict.fromkeys(URLS, "")
    with serving(tmp_path / "data", environment=no_urls) as run:
        left = run.ready().children
        assert set(SERVERS) <= set(left)
        for title in programs.TITLES.values():
            assert f"feedlab: {title} " in run.errors
        with serving(tmp_path / "data", environment=no_urls) as second:
            assert second.process.wait(DEADLINE_S) != 0
            assert f"in use by process {run.process.pid} (feedlab serve)" in second.errors
        run.process.kill()
        run.process.wait(DEADLINE_S)
    with serving(tmp_path / "data", environment=no_urls) as run:
        now = run.ready().children
        assert gone(left)
        note = DataDirectory(run.data).note()
        assert all(answers(url_of(note, server), server) for server in SERVERS)
        run.process.terminate()
        run.process.wait(DEADLINE_S)
        assert gone(now)
