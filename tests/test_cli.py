"""What a person types and reads: every command answers in lines, never in a traceback."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import click
import pytest
from bson import Int64, Timestamp
from click.testing import CliRunner, Result
from pymongo import MongoClient
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError

from app import doctor, serve
from app.cli import Feedlab, main, show_author
from app.clock import Clock
from app.config import Config, at_a_screen
from app.loop import event_loop
from app.models import User
from app.servers import programs
from app.servers.borrow import running_servers
from app.servers.datadir import DataDirectory
from app.servers.programs import ServersError, insist, resolve
from app.servers.urls import SERVERS, urls, variable
from app.stack import connected
from app.stack.mongodb.whole import WINDOW
from phases.p2_push import PUSH
from phases.p4_cache import CACHE
from tests.world import SLUGS, STAND_INS

COMMANDS = ("serve", "doctor", "worker", "phases", "deliveries", "author", "admin", "seed", "walkthrough")
FULL = Path("/dev/full")
PATIENCE_S = 20  # of a command that should have ended
SILENT = {
    "FEEDLAB_MONGODB_URL": "mongodb://ada:secret@127.0.0.1:9/",
    "FEEDLAB_REDIS_URL": "redis://127.0.0.1:9/0",
    "FEEDLAB_MEMCACHED": "127.0.0.1:9",
}


EVERY_COMMAND: tuple[list[str], ...] = (
    ["serve", "--port", "0"],
    ["doctor"],
    ["worker"],
    ["phases"],
    ["deliveries"],
    ["author", "ada"],
    ["admin", "ada"],
    ["seed", "--users", "9", "--mean", "2"],
)


def feedlab(*words: object, environment: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], env=dict(environment or {}))


def refused(result: Result) -> str:
    """The one line of a command that could not start."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_takes_a_data_directory(command: str) -> None:
    assert command in feedlab("--help").stdout
    result = feedlab(command, "--help")
    assert result.exit_code == 0
    assert "--data" in result.stdout


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    result = feedlab("phases", "--data", tmp_path, environment={"FEEDLAB_CAP": "many", "FEEDLAB_CHUNK": "0"})
    assert "FEEDLAB_CAP:" in refused(result)
    assert "FEEDLAB_CHUNK:" in result.stderr


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        *(
            ("FEEDLAB_ALLOWED_HOSTS", entry)
            for entry in ("https://feed.example", "feed.example:443", "*.example", "a b")
        ),
        *(("FEEDLAB_ALLOWED_HOSTS", entry) for entry in ("m\u00fcnchen.example", ".", "feed.example/")),
        *(
            ("FEEDLAB_TRUSTED_PROXIES", entry)
            for entry in ("proxy", "192.0.2.1:80", "10.0.0.0/33", "10.0.0.*", "fe80::%")
        ),
    ],
)
def test_an_entry_of_a_list_that_could_never_hold_is_named(name: str, entry: str, tmp_path: Path) -> None:
    line = refused(
        feedlab("phases", "--stack", "memory", "--data", tmp_path, environment={name: f"192.0.2.1, {entry}"})
    )
    assert f"{name}: " in line
    assert repr(entry) in line
    assert "write " in line
    assert "Value error" not in line


def test_a_node_that_can_be_none_is_refused_in_words(tmp_path: Path) -> None:
    """Without it: what is behind a comma may be a part of a password."""
    line = refused(feedlab("phases", "--data", tmp_path, environment={"FEEDLAB_MEMCACHED": "127.0.0.1:1,s3cr3t"}))
    assert "FEEDLAB_MEMCACHED: an entry is no node: write host:port, " in line


def test_entries_of_a_list_may_have_spaces_around_them() -> None:
    given = {
        "FEEDLAB_MEMCACHED": "a:1, b:2 ,",
        "FEEDLAB_ALLOWED_HOSTS": " *, [::1],Feed.Example.",
        "FEEDLAB_METRICS": "",
    }
    config = Config.from_environment(given)
    assert config.memcached == ("a:1", "b:2")
    assert config.allowed_hosts == ("*", "::1", "feed.example")


def test_a_setting_that_nobody_knows_is_told_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """Kubernetes sets the first one for a Service named feedlab."""
    given = {"FEEDLAB_PORT": "tcp://10.0.0.1:80", "FEEDLAB_MEMCACHD": "127.0.0.1:9"}
    assert Config.from_environment(given) == Config()
    assert [record.getMessage() for record in caplog.records] == [
        "feedlab: FEEDLAB_PORT is no setting and is ignored",
        "feedlab: FEEDLAB_MEMCACHD is no setting and is ignored; there is FEEDLAB_MEMCACHED",
    ]


WRONG_URLS = {
    "FEEDLAB_MONGODB_URL": ("mongodb://ada:s3cr/3t@127.0.0.1:9/", "mongodb://127.0.0.1:99999/", "mongodb://", "s3cr3t"),
    "FEEDLAB_REDIS_URL": ("redis://:s3cr3t#x@127.0.0.1:9/0", "redis://127.0.0.1:99999/0", "redis://127.0.0.1:x"),
}


@pytest.mark.parametrize(("name", "url"), [(name, url) for name, urls in WRONG_URLS.items() for url in urls])
@pytest.mark.parametrize("command", ["phases", "doctor", "serve", "worker"])
def test_a_url_that_cannot_be_read_is_named_and_not_repeated(name: str, url: str, command: str, tmp_path: Path) -> None:
    line = refused(feedlab(command, "--data", tmp_path, environment=SILENT | {name: url}))
    assert f"{name}: " in line
    assert "s3cr" not in line


USELESS_URLS: dict[str, tuple[str, ...]] = {
    "FEEDLAB_MONGODB_URL": (
        "mongo://ada:s3cr3t@127.0.0.1:9",
        "mongodb://ada:s3cr3t:y@@127.0.0.1:9",
        "mongodb://127.0.0.1:9/?w=s3cr3t#x&authMechanism=FOO",
        "mongodb://127.0.0.1:9/?uuidRepresentation=s3cr3t",
        "mongodb://127.0.0.1:9/?tls=yes",
        "mongodb://127.0.0.1:9/?password=s3cr3t",
        "mongodb://127.0.0.1:9/?minPoolSize=51&maxPoolSize=100",
        "mongodb://127.0.0.1:9/?datetime_conversion=s3cr3t",
        "mongodb://127.0.0.1:9/$s3cr3t",
        "mongodb+srv://ada:s3cr3t@a.example/?tls=yes",
        "mongodb://ada:s3cr3t%00@127.0.0.1:9",
        "mongodb://ada:s3cr3t\n@127.0.0.1:9",
        f"mongodb://{'a' * 64}.example",
    ),
    "FEEDLAB_REDIS_URL": (
        "http://:s3cr3t@127.0.0.1:9",
        "REDIS://127.0.0.1:9",
        "redis://:s3cr3t@127.0.0.1:9/notanumber",
        "redis://127.0.0.1:9/0?db=s3cr3t",
        "redis://127.0.0.1:9/0?s3cr3t=1",
        "redis://127.0.0.1:9/0?socket_timeout=600",
        "redis://127.0.0.1:9/0?decode_responses=true",
        "redis://127.0.0.1:9/0?connection_class=s3cr3t",
        "redis://127.0.0.1:9/0?self=s3cr3t",
        "redis://127.0.0.1:9/0?ssl_keyfile=s3cr3t",
        "rediss://127.0.0.1:9/0?ssl_cert_reqs=s3cr3t",
        "rediss://127.0.0.1:9/0?ssl_min_version=s3cr3t",
        "unix://",
        "redis://a..b:9",
        "unix://s3cr3t/redis.sock",
    ),
    "FEEDLAB_MEMCACHED": (
        "memcacheds://ada:s3cr3t#x@127.0.0.1:9",
        "ada:s3cr3t@127.0.0.1:9",
        "ada:s3cr3t:9",
        "127.0.0.1:99999",
        "127.0.0.1:0",
        "[::1",
        "[s3cr3t]:9",
        "127.0.0.1:9,s3cr3t",
        "\udcff:9",
    ),
}


@pytest.mark.parametrize(("name", "url"), [(name, url) for name, urls in USELESS_URLS.items() for url in urls])
def test_a_url_that_a_driver_can_do_nothing_with_is_refused_by_every_command(
    name: str, url: str, tmp_path: Path
) -> None:
    """Before any server is asked, and one that the driver would take half of too: `tls=yes` is no TLS."""
    for words in (*EVERY_COMMAND, ["backup", str(tmp_path / "a.backup")]):
        line = refused(feedlab(*words, "--data", tmp_path / "data", environment=SILENT | {name: url}))
        assert f"{name}" in line
        assert "s3cr3t" not in line


def test_a_url_that_names_no_host_is_refused_by_an_optimized_python() -> None:
    """`-O` leaves out every assert."""
    wrong = ["redis://", "redis://:secret@", "redis://127.0.0.1:0", "redis://a%00b", "redis://a\nb", "127.0.0.1:6379"]
    refused = (
        "import sys; from app.config import Config, ConfigError\n"
        "for url in sys.argv[1:]:\n"
        "    try: Config.from_environment({'FEEDLAB_REDIS_URL': url})\n"
        "    except ConfigError as error: print('no host and port' in str(error))\n"
    )
    said = subprocess.run(
        [sys.executable, "-O", "-c", refused, *wrong], check=True, capture_output=True, text=True
    ).stdout
    assert said.splitlines() == ["True"] * len(wrong)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("FEEDLAB_REDIS_URL", "rediss://ada:p%2Fw@127.0.0.1:9/3?ssl_cert_reqs=none&health_check_interval=30"),
        ("FEEDLAB_REDIS_URL", "unix:///run/redis.sock?db=1&password=p%2Fw"),
        ("FEEDLAB_MONGODB_URL", "mongodb+srv://ada:p%2Fw@a.example/?retryWrites=true&w=majority&appName=feedlab"),
        ("FEEDLAB_MEMCACHED", "[::1]:9,/run/memcached.sock,memcacheds://a.example:9"),
    ],
)
def test_a_url_of_every_form_that_the_drivers_know_is_taken(name: str, url: str) -> None:
    (server,) = (server for server in SERVERS if variable(server) == name)
    assert ",".join(urls(Config.from_environment({name: url}), server)) == url


@pytest.mark.parametrize(
    "url",
    ["mongodb://a:9,b:9/?replicaSet=r", "mongodb+srv://ada:p%2Fw@cluster.example/", "mongodb://%2Ftmp%2Fm.sock/"],
)
def test_a_url_of_several_hosts_or_of_a_socket_can_be_read(url: str) -> None:
    assert Config.from_environment({"FEEDLAB_MONGODB_URL": url}).mongodb_url == url


def test_a_command_says_what_it_can_in_every_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.commands, "say", click.Command("say", callback=lambda: click.echo("\u201cwords\u201d")))
    result = CliRunner(charset="latin-1").invoke(main, ["say"])
    assert (result.exit_code, result.stdout) == (0, "?words?\n")


WITH_FILES = {
    "FEEDLAB_REDIS_URL": "rediss://127.0.0.1:9/0?ssl_ca_certs={}",
    "FEEDLAB_MONGODB_URL": "mongodb://127.0.0.1:9/?tlsCAFile={}",
    "FEEDLAB_MEMCACHED": "memcacheds://127.0.0.1:9?ssl_ca_certs={}",
}
USING_THEM = ("phases", "worker", "deliveries")


@pytest.mark.parametrize("file", ["none", "no-certificate"])
@pytest.mark.parametrize(
    ("command", "name"),
    [*((command, name) for command in USING_THEM for name in WITH_FILES), ("backup", "FEEDLAB_MONGODB_URL")],
)
def test_a_file_of_no_use_that_a_url_names_is_said_in_one_line(
    command: str, name: str, file: str, tmp_path: Path
) -> None:
    (tmp_path / "no-certificate").write_text("nothing")
    words = [tmp_path / "backup.gz"] if command == "backup" else []
    wrong = SILENT | {name: WITH_FILES[name].format(tmp_path / file)}
    line = refused(feedlab(command, *words, "--data", tmp_path / "data", environment=wrong))
    assert f"{name}: a file that it names" in line


@pytest.mark.parametrize("file", ["none", "no-certificate"])
def test_the_doctor_takes_a_file_of_no_use_for_no_answer(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.2)
    (tmp_path / "no-certificate").write_text("nothing")
    for name, url in WITH_FILES.items():
        result = feedlab(
            "doctor", "--data", tmp_path / "data", environment=SILENT | {name: url.format(tmp_path / file)}
        )
        assert result.exit_code == 1, result.stderr
        assert "start it, or correct the URL" in result.stdout


@pytest.mark.parametrize("words", [["phases"], ["deliveries"], ["admin", "ada"], ["seed", "--users", 100, "--yes"]])
def test_a_server_that_is_away_is_said_in_one_line(words: list[object], tmp_path: Path) -> None:
    away = SILENT | {"FEEDLAB_SERVER_TIMEOUT_S": "0.2"}
    line = refused(feedlab(*words, "--data", tmp_path, environment=away))
    assert "MongoDB: 127.0.0.1:9" in line
    assert "feedlab doctor" in line
    assert "secret" not in line


@pytest.mark.thorough
@pytest.mark.parametrize("words", [("serve", "--port", 0), ("serve", "--port", 0, "--demo"), ("worker",)])
def test_who_stays_waits_for_mongodb_and_gives_up_in_one_line(
    words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MONGODB_DEADLINE_S", 0)
    result = feedlab(*words, "--data", tmp_path, environment=SILENT | {"FEEDLAB_SERVER_TIMEOUT_S": "0.2"})
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: no answer in 0 s from MongoDB: 127.0.0.1:9: ")
    assert "secret" not in result.stderr


@pytest.mark.anyio
async def test_a_mongodb_that_comes_later_is_waited_for_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([ServerSelectionTimeoutError("it is away"), OperationFailure("no majority yet", 134), None])

    @asynccontextmanager
    async def later(*_: object) -> AsyncIterator[None]:
        if error := next(answers):
            raise error
        yield

    monkeypatch.setattr(serve, "connected", later)
    monkeypatch.setattr(serve, "MONGODB_PAUSE_S", 0)
    await serve._migrated(STAND_INS, Config())
    assert capsys.readouterr().err == "feedlab: waiting for MongoDB: it is away\n"
    assert next(answers, "all of them") == "all of them"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["bench", "faults"], "--seconds"),
        (["bench", "faults"], "--pause"),
        (["bench", "attack"], "--seconds"),
        (["bench", "live"], "--silent"),
        (["bench", "live"], "--rate"),
        (["seed"], "--mean"),
    ],
)
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_number_that_nothing_can_be_done_with_is_refused(words: list[str], option: str, number: str) -> None:
    result = feedlab(*words, option, number)
    assert result.exit_code == 2
    assert option in result.stderr


def test_a_missing_url_is_named(tmp_path: Path) -> None:
    assert "FEEDLAB_MEMCACHED" in refused(feedlab("phases", "--data", tmp_path, "--stack", "urls"))


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        line = refused(feedlab("serve", "--stack", "memory", "--data", tmp_path, "--port", port))
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in line
    assert DataDirectory(tmp_path).owner() is None


@pytest.mark.thorough
@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("worker",)], ids=" ".join)
def test_a_port_for_prometheus_that_its_processes_cannot_have_is_named_by_their_parent(
    words: tuple[object, ...], tmp_path: Path
) -> None:
    """They would end one by one, and be started again for ever."""

    def told(address: str, *more: object) -> str:
        settings = SILENT | {"FEEDLAB_METRICS": address}
        result = feedlab(*words, *more, "--data", tmp_path, environment=settings)
        assert result.exit_code == 2, result.output
        return result.stderr.splitlines()[-1]

    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        line = told(f"127.0.0.1:{port}")
    assert f"cannot listen on 127.0.0.1 port {port}: " in line
    assert "Choose another with FEEDLAB_METRICS" in line
    more = ("--count", 2) if words == ("worker",) else ()
    assert "2 processes have no ports from 127.0.0.1:65535 on" in told("127.0.0.1:65535", *more)
    assert "'127.0.0.1:94010' is no host:port" in told("127.0.0.1:94010")


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "\udcff", "no.invalid"])
def test_an_address_that_there_is_not_is_named(host: str, tmp_path: Path) -> None:
    words = ("serve", "--stack", "memory", "--data", tmp_path, "--port", 0)
    assert "cannot listen on" in refused(feedlab(*words, "--host", host))
    result = feedlab(*words, environment={"FEEDLAB_METRICS": f"{host}:80"})
    assert result.exit_code == 2
    assert "Error: FEEDLAB_METRICS: " in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_an_empty_data_directory_is_not_the_current_one(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of a script that is not set."""
    monkeypatch.chdir(tmp_path)
    result = feedlab(*words, "--data", "")
    assert result.exit_code == 2
    assert "'--data': it is empty" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_second_serve_is_refused(tmp_path: Path) -> None:
    with DataDirectory(tmp_path).owned("feedlab serve", lasting=True):
        line = refused(feedlab("serve", "--stack", "memory", "--data", tmp_path, "--port", 0))
    assert f"{tmp_path} is in use by process {os.getpid()} (feedlab serve)" in line


@pytest.mark.parametrize(
    ("demo", "terminal", "screen", "opens"),
    [(True, True, True, True), (False, True, True, False), (True, False, True, False), (True, True, False, False)],
)
def test_a_demo_prints_one_address_and_opens_it_on_a_desktop(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    demo: bool,
    terminal: bool,
    screen: bool,
    opens: bool,
) -> None:
    async def announced(self: serve._Serving) -> None:
        self._announce()

    opened: list[str] = []
    monkeypatch.setattr(serve._Serving, "in_one_process", announced)
    monkeypatch.setattr(serve, "at_a_screen", lambda: screen)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert serve.serve(serve.Plan(tmp_path, port=0, level="memory"), Config(demo=demo)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert opened == ([line.removeprefix("ready ")] if opens else [])


@pytest.mark.parametrize(
    ("environment", "there"),
    [
        ({}, False),
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({"DISPLAY": ":10", "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}, False),
    ],
)
def test_a_desktop_is_known_by_its_display(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], there: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert at_a_screen(environment) == there


def test_stand_ins_of_a_running_serve_are_out_of_reach(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with directory.owned("feedlab serve", lasting=True):
        directory.change(ready=True)
        assert f"inside process {os.getpid()}" in refused(feedlab("phases", "--data", tmp_path))


def ended_by(error: BaseException) -> Result:
    @click.group(cls=Feedlab)
    def program() -> None: ...

    @program.command()
    def work() -> None:
        raise error

    return CliRunner().invoke(program, ["work"])


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
@pytest.mark.parametrize("asked", [("--help",), ("--version",), ("seed", "--help")])
def test_a_full_disk_is_told_in_one_line(asked: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        ran = subprocess.run([sys.executable, "-m", "app.cli", *asked], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ran.returncode, ran.stderr) == (2, "Error: No space left on device\n")


def test_ctrl_c_is_quiet() -> None:
    result = ended_by(KeyboardInterrupt())
    assert (result.exit_code, result.output) == (130, "")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, event_loop])
def test_sigterm_ends_a_command_in_the_background_whatever_it_does(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """A script that puts it there lets it ignore Ctrl-C. Here it catches every error where the signal comes."""
    cleared_up = []

    async def going_on() -> None:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            cleared_up.append(True)

    @click.group(cls=Feedlab)
    def program() -> None: ...

    @program.command()
    def work() -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(going_on())

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ended = CliRunner().invoke(program, ["work"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert (ended.exit_code, cleared_up) == (128 + signal.SIGTERM, [True])


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FileNotFoundError(2, "No such file or directory", "/no/x"), "Error: /no/x: No such file or directory\n"),
        (OSError(28, "No space left on device"), "Error: No space left on device\n"),
        (PermissionError(13, "Permission denied", "/x"), "Error: /x: Permission denied\n"),
    ],
)
def test_what_the_system_says_of_a_file_ends_a_command_in_one_line(error: OSError, says: str) -> None:
    result = ended_by(error)
    assert (result.exit_code, result.output) == (2, says)


def test_a_backup_that_cannot_be_written_is_said_before_any_server_is_asked(tmp_path: Path) -> None:
    result = feedlab("backup", tmp_path / "no" / "a.backup", "--data", tmp_path, environment=SILENT)
    assert result.exit_code == 2
    assert "No such file or directory" in result.stderr
    assert "127.0.0.1:9" not in result.stderr


def test_phases_shows_and_changes_the_setting() -> None:
    shown = feedlab("phases", "--stack", "memory", "--deliver", f"{PUSH.slug}, {CACHE.slug}", "--read", PUSH.slug)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0] == "read: push"
    assert [line.split()[0] for line in lines[1:]] == list(SLUGS)
    assert ["not delivering" in line for line in lines[1:]] == [slug not in (PUSH.slug, CACHE.slug) for slug in SLUGS]


def test_an_unknown_phase_is_refused() -> None:
    assert "slow" in refused(feedlab("phases", "--stack", "memory", "--read", "slow"))


@pytest.mark.anyio
async def test_an_author_is_weighed_and_forced(capsys: pytest.CaptureFixture[str]) -> None:
    """On a system of one process, whose stand-ins two commands would not share."""
    async with connected(STAND_INS, Config()) as stack:
        now = stack.clock.now()
        await User(id=stack.clock.new_id(), handle="zoe", name="Zoe", created_at=now).insert()
        light = "delivered: fewer than 1,000 active followers (FEEDLAB_PULL_FROM)"
        for choice, says in ((None, light), ("pulled", "pulled: forced")):
            await show_author(stack, "Zoe", choice)
            said = capsys.readouterr().out
            assert said.startswith(f"zoe's statuses are {says}\n")
            assert "0 active followers, 0.0 statuses a day\npages a day of an active reader: unknown\n" in said
        await show_author(stack, "zoe", "rule")
        assert "zoe's statuses are delivered" in capsys.readouterr().out


def test_an_author_whom_there_is_not_is_refused() -> None:
    assert "nobody is called nobody" in refused(feedlab("author", "nobody", "--stack", "memory"))


@pytest.mark.parametrize(
    ("options", "says"),
    [((), "nothing under way"), (("--failed",), "no dead letters"), (("--retry",), "0 queued again")],
)
def test_deliveries_of_an_idle_system(options: tuple[str, ...], says: str) -> None:
    result = feedlab("deliveries", "--stack", "memory", *options)
    assert (result.exit_code, result.stdout.strip()) == (0, says), result.output


def test_nobody_cannot_be_made_an_administrator() -> None:
    assert "nobody is called ada" in refused(feedlab("admin", "ada", "--stack", "memory"))


def test_a_worker_needs_servers_it_can_share() -> None:
    assert "needs real servers" in refused(feedlab("worker", "--stack", "memory"))


@pytest.mark.parametrize(
    ("options", "named"),
    [(("--directed",), "--directed"), (("--users", "9"), "--users"), (("--mean", "2"), "--mean")],
)
def test_an_option_that_would_be_ignored_is_refused(tmp_path: Path, options: tuple[str, ...], named: str) -> None:
    graph = tmp_path / "graph.txt"
    graph.write_text("a b\n")
    file = () if named == "--directed" else ("--graph", graph)
    result = feedlab("seed", "--data", tmp_path, *file, *options)
    assert result.exit_code == 2
    assert named in result.stderr


def test_a_graph_is_checked_before_any_server_is_asked(tmp_path: Path) -> None:
    graph = tmp_path / "graph.txt"
    graph.write_text("1 2\n2 three four\n")
    result = feedlab("seed", "--graph", graph, "--data", tmp_path / "data", environment=SILENT)
    line = refused(result)
    assert str(graph) in line
    assert "three" in line


# doctor


def test_doctor_is_content_with_stand_ins_where_they_were_asked_for(tmp_path: Path) -> None:
    assert feedlab("doctor", "--data", tmp_path, "--stack", "memory").exit_code == 0


def test_doctor_names_what_does_not_answer_and_hides_the_password(tmp_path: Path) -> None:
    result = feedlab("doctor", "--data", tmp_path, "--json", environment=SILENT)
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert {server["server"]: server["state"].split(":")[0] for server in report["servers"]} == {
        "MongoDB": "no answer",
        "Redis": "no answer",
        "Memcached": "no answer",
    }
    assert "secret" not in result.output


def test_doctor_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PACKAGES", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    result = feedlab("doctor", "--data", tmp_path)
    assert result.exit_code == 1
    assert "Memcached: install memcached, or set FEEDLAB_MEMCACHED" in result.stdout.splitlines()


class Off(Clock):
    """The clock of a machine that nobody sets."""

    def __init__(self, seconds: int) -> None:
        self._by = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self._by


@pytest.mark.servers
def test_doctor_sees_the_servers_that_run(tmp_path: Path) -> None:
    nothing = Config.from_environment({})
    try:
        insist(resolve(nothing, "servers"))
    except ServersError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    idle = json.loads(feedlab("doctor", "--data", tmp_path, "--json").stdout)
    assert {server["address"] for server in idle["servers"]} == {"would start"}
    with running_servers(tmp_path, nothing) as addresses:
        result = feedlab("doctor", "--data", tmp_path, "--json")
        report = json.loads(result.stdout)
        assert (result.exit_code, report["owner"]) == (0, os.getpid())
        assert [server["state"] for server in report["servers"]] == ["answers"] * 3
        assert [server["address"] for server in report["servers"]] == [
            addresses.mongodb,
            addresses.redis,
            *(addresses.memcached or ()),
        ]
        assert [server["advice"] for server in report["servers"]] == [""] * 3
        started = [server["source"] for server in report["servers"]]
        assert started == [server["source"] for server in idle["servers"]]
        with patch.object(programs, "PACKAGES", {}), patch.dict(os.environ, {"PATH": str(tmp_path / "none")}):
            report = json.loads(feedlab("doctor", "--data", tmp_path, "--json").stdout)
        assert [server["source"] for server in report["servers"]] == started, "these run, whatever PATH has now"
        assert [server["state"] for server in report["servers"]] == ["answers"] * 3
        note = json.loads((tmp_path / "servers.json").read_text())
        (tmp_path / "servers.json").write_text(
            json.dumps({key: value for key, value in note.items() if key != "sources"})
        )
        report = json.loads(feedlab("doctor", "--data", tmp_path, "--json").stdout)
        assert all("earlier version" in server["source"] for server in report["servers"])
        with MongoClient[dict[str, object]](addresses.mongodb) as client:
            client.admin.command({"setParameter": 1, WINDOW: 300})
        result = feedlab("doctor", "--data", tmp_path)
        (advice,) = (line for line in result.stdout.splitlines() if line.startswith("MongoDB: "))
        assert (result.exit_code, "it keeps for 300 s" in advice) == (0, True)
        command = re.search(r"adminCommand\(\{setParameter: 1, (\w+): (\d+)\}\)", advice)
        assert command
        with MongoClient[dict[str, object]](addresses.mongodb) as client:
            client.admin.command({"setParameter": 1, command[1]: int(command[2])})
        assert "MongoDB: " not in feedlab("doctor", "--data", tmp_path).stdout, "that mends it"
        for seconds, said in ((-61, "behind MongoDB's"), (61, "ahead of MongoDB's"), (0, None)):
            with patch.object(doctor, "Clock", lambda by=seconds: Off(by)):
                told = feedlab("doctor", "--data", tmp_path).stdout
            apart = re.search(r"^MongoDB: the clock of this machine is (\S+) s (.+), and", told, re.MULTILINE)
            assert (apart and apart[2]) == said
            assert apart is None or 58 <= float(apart[1]) <= 61, "less what the answer took"
        assert "MongoDB: " not in told
        with MongoClient[dict[str, object]](addresses.mongodb) as client, client.start_session() as session:
            unsigned = {"hash": bytes(20), "keyId": Int64(0)}
            ahead = {"clusterTime": Timestamp(int(time.time()) + 3_600, 1), "signature": unsigned}
            session.advance_cluster_time(ahead)  # as a member does whose clock is wrong
            client["test"]["things"].insert_one({}, session=session)
        told = feedlab("doctor", "--data", tmp_path).stdout
        apart = re.search(
            r"^MongoDB: the time of MongoDB's cluster is (\S+) s ahead of every clock", told, re.MULTILINE
        )
        assert apart
        assert 3_500 < float(apart[1].replace(",", "")) <= 3_601


def test_doctor_tells_an_outage_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a MongoDB that goes after it has answered."""
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.1)
    answered = doctor.Finding("MongoDB", "a URL", "7.0", "127.0.0.1:9", "answers", ok=True, advice="")
    found = doctor._with_schema(answered, "mongodb://127.0.0.1:9/", Config())
    assert not found.ok
    assert found.state.startswith("no answer: 127.0.0.1:9: ")
    assert "Topology" not in found.state


@pytest.mark.parametrize(
    ("says", "url", "objects"),
    [
        ({"msg": "isdbgrid"}, "mongodb://one,two:27018/", True),
        ({"msg": "isdbgrid"}, "mongodb://one/", False),
        ({"setName": "three"}, "mongodb://one,two,three/", False),
    ],
)
def test_doctor_objects_to_several_routers(says: dict[str, str], url: str, objects: bool) -> None:
    """A snapshot is of the time that its router knows."""
    assert ("names several routers" in doctor._one_router(says, url)) == objects


@pytest.mark.parametrize(
    ("host", "demo", "warned"), [("0.0.0.0", True, True), ("0.0.0.0", False, False), ("127.0.0.1", True, False)]
)
def test_a_demo_that_others_can_reach_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    host: str,
    demo: bool,
    warned: bool,
) -> None:
    async def ended(self: object) -> None: ...

    monkeypatch.setattr(serve._Serving, "in_one_process", ended)
    assert serve.serve(serve.Plan(tmp_path, host=host, port=0, level="memory"), Config(demo=demo)) == 0
    assert ("whoever reaches this machine may sign in as anybody" in capfd.readouterr().err) == warned


def test_a_name_to_listen_on_need_not_be_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the machine, behind a proxy. This one needs no DNS, and is no address as requests name one."""

    def announced(self: serve._Serving) -> None:
        self.stop.on_signal(signal.SIGTERM, None)

    monkeypatch.setattr(serve, "READY_DEADLINE_S", 1)
    monkeypatch.setattr(serve._Serving, "_announce", announced)
    plan = serve.Plan(tmp_path, host="127.1", port=0, level="memory")
    assert serve.serve(plan, Config(allowed_hosts=("feed.example",))) == 0
