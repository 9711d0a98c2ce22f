"""Servers that demand a password and speak TLS, named by nothing but their URLs."""

import asyncio
import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result
from pymongo import MongoClient
from redis import Redis, RedisError

from app.cli import main
from app.config import Config
from app.servers.programs import insist, resolve
from app.stack import Addresses, connected
from app.stack.memcached import MemcachedNodes
from app.stack.mongodb.whole import BACKUP, HISTORY, WINDOW
from app.stack.rates import AWAY_S
from tests.certificates import Certificates
from tests.conftest import free_port, real_servers
from tests.dates import LONG_AGO, NOON, ManualClock
from tests.test_machines import process
from tests.test_memcached import node
from tests.world import IN_WORKER, KEEPING, World

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

PASSWORD = "p/ss:w?rd@#"
PATIENCE_S = 60.0
NAME = "secured"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A MongoDB and a Redis that a client without a password, or without TLS, gets nothing from, and a Memcached that
    speaks TLS.
    """
    here = tmp_path_factory.mktemp("secured")
    with real_servers(), ExitStack() as stack:
        sources = resolve(Config(), "servers")
        insist(sources)
        mongod, redis_server = (str(source.program) for source in sources[:2])
        certificates, word = Certificates.made(here), quote(PASSWORD, safe="")
        at = free_port()
        secured = f"redis://:{word}@localhost:{at}/3?ssl_ca_certs={certificates.authority}".replace(
            "redis", "rediss", 1
        )
        command = [
            *(redis_server, "--port", "0", "--tls-port", str(at), "--bind", "127.0.0.1", "--dir", str(here)),
            *("--tls-cert-file", str(certificates.server), "--tls-key-file", str(certificates.key)),
            *("--tls-ca-cert-file", str(certificates.authority), "--tls-auth-clients", "no"),
            *("--requirepass", PASSWORD, "--save", ""),
        ]
        redis = stack.enter_context(process(command, here / "redis.log"))
        deadline_s = time.monotonic() + PATIENCE_S
        while not _pings(secured):
            log = (here / "redis.log").read_text()[-300:]
            if not redis.is_running() or redis.status() == "zombie":
                assert os.environ.get("CI") != "true", log
                pytest.skip(f"this redis-server has no TLS: {log}")
            assert time.monotonic() < deadline_s, log
        mongodb = stack.enter_context(_mongod(mongod, here, certificates, word))
        certificates.key.chmod(0o644)  # memcached reads it as nobody
        here.chmod(0o755)
        files = f"ssl_chain_cert={certificates.server},ssl_key={certificates.key}"
        plain, _ = stack.enter_context(node("-Z", "-o", files))
        memcached = f"memcacheds://{plain}?ssl_ca_certs={certificates.authority}"
        yield {
            "FEEDLAB_MONGODB_URL": mongodb,
            "FEEDLAB_REDIS_URL": secured,
            "FEEDLAB_MEMCACHED": memcached,
            "FEEDLAB_DATABASE": NAME,
        }


def _pings(url: str) -> bool:
    try:
        with Redis.from_url(url) as redis:
            return bool(redis.ping())
    except RedisError:
        time.sleep(0.05)
        return False


class _mongod:
    """A replica set of one, whose first user is made by somebody on the machine, as MongoDB allows nobody else."""

    def __init__(self, program: str, here: Path, certificates: Certificates, word: str) -> None:
        self.at, self.word, self.authority, self.log = free_port(), word, certificates.authority, here / "mongod.log"
        key, data = here / "key", here / "mongodb"
        key.write_text("a key that members of the set share")
        key.chmod(0o400)
        data.mkdir()
        command = [
            *(program, "--dbpath", str(data), "--port", str(self.at), "--bind_ip", "127.0.0.1", "--nounixsocket"),
            *("--replSet", NAME, "--keyFile", str(key), "--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.25"),
            *("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(certificates.both)),
            *("--tlsCAFile", str(certificates.authority), "--tlsAllowConnectionsWithoutCertificates"),
        ]
        self._running = process(command, self.log)

    def __enter__(self) -> str:
        self._running.__enter__()
        tls = f"tls=true&tlsCAFile={quote(str(self.authority), safe='')}"
        deadline = time.monotonic() + PATIENCE_S
        with MongoClient[dict[str, object]](f"mongodb://localhost:{self.at}/?{tls}&directConnection=true") as client:
            members = [{"_id": 0, "host": f"localhost:{self.at}"}]
            client.admin.command("replSetInitiate", {"_id": NAME, "members": members})
            while not client.admin.command("hello")["isWritablePrimary"]:
                assert time.monotonic() < deadline, self.log.read_text()[-1000:]
                time.sleep(0.05)
            roles = [{"role": "readWrite", "db": NAME}]
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        url = f"mongodb://{{}}:{self.word}@localhost:{self.at}/?replicaSet={NAME}&authSource={{}}&{tls}"
        with MongoClient[dict[str, object]](url.format("root", "admin")) as client:
            client[NAME].command("createUser", "feedlab", pwd=PASSWORD, roles=roles)
        return url.format("feedlab", NAME)

    def __exit__(self, *reason: object) -> None:
        self._running.__exit__(None, None, None)


async def test_everything_works(environment: dict[str, str]) -> None:
    config = Config.from_environment(environment, demo=True)
    addresses = Addresses(config.mongodb_url, config.redis_url, config.memcached)
    clock = ManualClock(NOON)
    async with connected(addresses, config, clock) as stack:
        assert all((await stack.check()).values())
        world = await World.open(stack, clock)
        await world.sign_up("ann", "zoe")
        await world.follow("ann", "zoe")
        await world.timelines.change(delivering=KEEPING)
        world.pass_grace()
        await world.warm("ann")
        await world.post("zoe", "over TLS, with a password")
        assert {phase for phase, owed in (await world.pending()).items() if owed} == set(IN_WORKER)
        await world.drain()
        assert not any((await world.pending()).values())
        await world.sees("ann", "over TLS, with a password")
        assert isinstance(stack.memcached, MemcachedNodes)
        assert await stack.memcached.add("list", b"", 60)
        absent = [f"list_of_{n}" for n in range(2_000)]
        assert await stack.memcached.prepend([*absent, "list"], bytes(100)) == 1, "more than a record of TLS holds"
        limit = stack.rates.rate("test", 1, "too often")
        deadline_s = time.monotonic() + PATIENCE_S
        for who in itertools.count():
            assert await limit.hit(who)
            assert not await limit.hit(who)
            if not stack.rates._outages.is_away:
                break  # counted in Redis. A busy machine greets it for longer than a poster waits
            assert time.monotonic() < deadline_s
            await asyncio.sleep(AWAY_S)


def test_doctor_says_so_and_shows_no_password(environment: dict[str, str], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", "--json", "--data", str(tmp_path)], env=environment)
    servers = json.loads(result.stdout)["servers"]
    assert [server["state"] for server in servers] == ["answers"] * 3, result.output
    assert [server["advice"].partition(" see ")[0] for server in servers] == ["this user may not", "", ""]
    assert PASSWORD not in result.output
    assert quote(PASSWORD, safe="") not in result.output
    for command in (["phases"], ["backup", str(tmp_path / "a.backup")]):
        result = CliRunner().invoke(main, [*command, "--stack", "urls", "--data", str(tmp_path)], env=environment)
        assert result.exit_code == 0, result.output


def test_a_backup_needs_no_more_rights_than_feedlab_has(
    environment: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a killed one with `--window` has left, for which they are too few."""
    root = (
        environment["FEEDLAB_MONGODB_URL"]
        .replace("feedlab:", "root:")
        .replace(f"authSource={NAME}", "authSource=admin")
    )
    files = itertools.count()

    def feedlab(user: str, *words: str) -> Result:
        own = environment | {"FEEDLAB_MONGODB_URL": environment["FEEDLAB_MONGODB_URL"].replace("feedlab:", f"{user}:")}
        return CliRunner().invoke(main, [*words, "--stack", "urls", "--data", str(tmp_path)], env=own)

    def backup(user: str, *more: str) -> Result:
        return feedlab(user, "backup", str(tmp_path / f"{next(files)}.backup"), *more)

    assert feedlab("feedlab", "phases").exit_code == 0, "there is something to save"
    with MongoClient[dict[str, object]](root) as client:
        database, own, looks = (
            client[NAME],
            {"role": "readWrite", "db": NAME},
            {"role": "clusterMonitor", "db": "admin"},
        )
        sets = {"role": "hostManager", "db": "admin"}
        reads = {"role": "read", "db": NAME}
        for user, roles in (("watcher", [own, looks]), ("manager", [own, looks, sets]), ("reader", [reads])):
            database.command("createUser", user, pwd=PASSWORD, roles=roles)
        was = client.admin.command({"getParameter": 1, WINDOW: 1})[WINDOW]
        refused = backup("watcher", "--window", "60")
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1), refused.output
        assert "not authorized" in refused.stderr
        assert database["settings"].find_one({"_id": HISTORY}) is None, "nothing was set"
        database["settings"].insert_one({"_id": HISTORY, "was": was, "until": LONG_AGO})
        assert backup("feedlab").exit_code == 0
        assert backup("feedlab", "--window", "60").exit_code == 2
        assert database["settings"].find_one({"_id": HISTORY}), "whoever may is still to set it back"
        made = backup("manager", "--window", "60")
        assert made.exit_code == 0, made.output
        assert database["settings"].find_one({"_id": HISTORY}) is None
        assert database["settings"].delete_one({"_id": BACKUP}).deleted_count
        assert backup("reader").exit_code == 0
        assert "so no alert can tell of its age: MongoDB: not authorized" in caplog.text
        assert database["settings"].find_one({"_id": BACKUP}) is None


def test_without_a_password_there_is_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    """The servers do demand it, and a refusal is one line. Memcached's certificate is checked."""
    word = quote(PASSWORD, safe="")
    unknown = environment["FEEDLAB_MEMCACHED"].partition("?")[0]  # nobody has signed its certificate
    for name, wrong in (
        *((url, environment[url].replace(word, "another")) for url in ("FEEDLAB_MONGODB_URL", "FEEDLAB_REDIS_URL")),
        ("FEEDLAB_MEMCACHED", unknown),
    ):
        without = environment | {name: wrong}
        result = CliRunner().invoke(main, ["doctor", "--json", "--data", str(tmp_path)], env=without)
        states = [server["state"] for server in json.loads(result.stdout)["servers"]]
        assert [state == "answers" for state in states].count(False) == 1, states
    refused = environment | {"FEEDLAB_MONGODB_URL": environment["FEEDLAB_MONGODB_URL"].replace("feedlab:", "nobody:")}
    result = CliRunner().invoke(main, ["phases", "--data", str(tmp_path)], env=refused)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
