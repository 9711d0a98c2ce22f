"""What deploy/ says is compared with what there is: nothing of it can be started here."""

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import yaml
from click.testing import CliRunner
from starlette.applications import Starlette

from app import serve
from app.cli import main
from app.config import PREFIX, Config
from app.servers.commands import MEMCACHED_MB, arguments, mongod
from app.stack.mongodb.whole import WINDOW
from tests.certificates import Certificates
from tests.conftest import free_port
from tests.test_docs import NUMBERS, PROJECT, commands_in, leaves
from tests.test_machines import NAME, proxy

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
# github.com/compose-spec/compose-spec, schema/compose-spec.json at 170098ba (Apache 2.0)
SCHEMA = Path(__file__).parent / "data" / "compose-spec.json.gz"
SECRET = "0123456789abcdef"
OURS = "feedlab:"  # the image
UNITS = sorted([*(DEPLOY / "systemd").glob("*.service"), *(DEPLOY / "systemd").glob("*.timer")])


def variables() -> dict[str, str]:
    """What .env would say."""
    lines = (DEPLOY / "env.example").read_text().splitlines()
    return {name: text or SECRET for name, _, text in (line.partition("=") for line in lines) if "#" not in name}


def _filled_in(value: Any) -> Any:
    """As Compose does it. A variable that env.example does not have is a KeyError."""
    if isinstance(value, dict):
        return {name: _filled_in(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled_in(part) for part in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{(\w+):\?\}", lambda found: variables()[found[1]], value).replace("$$", "$")


COMPOSE: dict[str, Any] = _filled_in(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))
SERVICES: dict[str, Any] = COMPOSE["services"]


def ours() -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, service) for name, service in SERVICES.items() if service["image"].startswith(OURS))


def runs(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for command in leaves():
        monkeypatch.setattr(command, "callback", lambda **_: None)
    answer = CliRunner().invoke(main, words)
    assert answer.exit_code == 0, f"feedlab {shlex.join(words)}: {answer.output}"


def test_compose_takes_it() -> None:
    schema = json.loads(gzip.decompress(SCHEMA.read_bytes()))
    validator = jsonschema_rs.validator_for(schema)
    validator.validate(COMPOSE)
    assert not validator.is_valid({**COMPOSE, "services": {"web": {"imag": "x"}}}), "it would see a slip"


def test_everything_that_is_named_is_there() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", ())) <= SERVICES.keys(), name
        assert set(service["networks"]) <= COMPOSE["networks"].keys(), name
        assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys(), name
        for other, how in dict(service.get("depends_on", {})).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[other], (
                f"{name} waits for {other}"
            )
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            made = source in ("./tls", "./backups")  # by whoever deploys
            assert source in COMPOSE["volumes"] or made or (DEPLOY / source).exists(), volume
        if service["image"].startswith(OURS):
            assert service["image"] == f"{OURS}{PROJECT['version']}"
        else:
            assert re.fullmatch(r"[\w./-]+:v?\d+\.[\d.]+", service["image"]), f"{name}: a version that may move"
    build = SERVICES["web-1"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert (DEPLOY / build["context"]).resolve() == ROOT


def test_no_log_grows_for_ever() -> None:
    """Docker rotates those of this driver, and nothing of its own choice."""
    assert [name for name, service in SERVICES.items() if service.get("logging") != {"driver": "local"}] == []


def test_the_topology() -> None:
    """That of tests/test_machines.py."""
    kinds = [re.sub(r"-\d$", "", name) for name in SERVICES]
    there = {kind: kinds.count(kind) for kind in kinds if kind not in ("mongodb-setup", "operator")}
    assert there == {
        "proxy": 1,
        "web": 2,
        "worker": 2,
        "mongodb": 3,
        "redis": 1,
        "memcached": 2,
        "prometheus": 1,
        "alertmanager": 1,
    }


def test_our_processes_have_settings_that_there_are_and_find_their_servers() -> None:
    for name, service in ours():
        given = service["environment"]
        assert set(given) <= {f"{PREFIX}{field.upper()}" for field in Config.model_fields}, name
        config = Config.from_environment(given)
        assert config.mongodb_url
        assert config.redis_url
        places = re.findall(r"([\w-]+):(\d+)", " ".join([config.mongodb_url, config.redis_url, *config.memcached]))
        found = [(host, port) for host, port in places if host in SERVICES]
        assert found == [
            *((f"mongodb-{n}", "27017") for n in (1, 2, 3)),
            *(("redis", "6379"), ("memcached-1", "11211"), ("memcached-2", "11211")),
        ], name
        assert "back" in service["networks"]
    keys = {service["environment"]["FEEDLAB_MEMCACHED"] for _, service in ours()}
    assert len(keys) == 1, "the same list everywhere"


def test_the_passwords_are_those_that_the_servers_ask_for() -> None:
    (redis,) = re.findall(r"redis://:(.+)@", SERVICES["web-1"]["environment"]["FEEDLAB_REDIS_URL"])
    command = SERVICES["redis"]["command"]
    assert command[command.index("--requirepass") + 1] == redis == SECRET
    mongodb = SERVICES["mongodb-1"]["command"]
    assert "--keyFile" in mongodb
    assert mongodb[mongodb.index("--replSet") + 1] == "feedlab"
    script = (DEPLOY / "mongodb" / "setup.js").read_text()
    url = SERVICES["web-1"]["environment"]["FEEDLAB_MONGODB_URL"]
    assert "replicaSet=feedlab" in url
    assert 'rs.initiate({ _id: "feedlab"' in script
    assert 'user: "feedlab"' in script
    [names] = re.findall(r"const \{ (.+) \} = process\.env;", script)
    setup = SERVICES["mongodb-setup"]["environment"]
    assert names.split(", ") == list(setup)
    assert setup["MONGODB_MEMBERS"] in url
    assert setup["MONGODB_ROOT_PASSWORD"] == SERVICES["mongodb-1"]["environment"]["MONGO_INITDB_ROOT_PASSWORD"]


def test_mongodb_keeps_history_and_transactions_no_longer_than_embedded_servers() -> None:
    embedded = mongod(Path("at"), "feedlab", oplog_mb=1, cache_gb=1)
    for name in ("mongodb-1", "mongodb-2", "mongodb-3"):
        said = _parameters(SERVICES[name]["command"])
        assert said == {parameter: _parameters(embedded)[parameter] for parameter in said}
        assert said.keys() == {WINDOW, "transactionLifetimeLimitSeconds"}


def test_servers_of_ones_own_are_set_up_as_embedded_ones_and_those_of_compose() -> None:
    """Those of the units: by their files of configuration, under the names that the settings have."""
    text = (ROOT / "docs" / "deploying.md").read_text()
    text = text[text.index("### The servers") : text.index("### The processes")]
    of_mongod, setup, of_redis, of_memcached = re.findall(r"^```\w+\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    said = yaml.safe_load(of_mongod)
    command = SERVICES["mongodb-1"]["command"]
    assert {name: str(value) for name, value in said["setParameter"].items()} == _parameters(command)
    assert said["replication"]["replSetName"] == _options(command)["replSet"]
    assert said["security"].keys() == {"keyFile"}
    options = dict(line.split(maxsplit=1) for line in of_redis.splitlines())
    embedded = _options(arguments("redis", Path("at"), small=False, aof=True))
    in_compose = _options(SERVICES["redis"]["command"])
    assert options.keys() - {"bind"} == in_compose.keys()
    for name in options.keys() - {"bind", "requirepass"}:
        assert options[name] == embedded[name] == in_compose[name], name
    assert of_memcached.split()[-2:] == SERVICES["memcached-1"]["command"][1:] == ["-m", MEMCACHED_MB]
    example = (DEPLOY / "systemd" / "feedlab.env.example").read_text()
    machines = re.findall(r"`([\w-]+\.example)`", text)
    assert len(machines) == len(SERVICES.keys() & {name.removesuffix(".example") for name in machines}) == 6
    assert all(name in example for name in machines)
    [members] = re.findall(r"MONGODB_MEMBERS=(\S+)", setup)
    assert [member.partition(":")[0] for member in members.split(",")] == [m for m in machines if "mongodb" in m]
    script = (DEPLOY / "mongodb" / "setup.js").read_text()
    assert set(re.findall(r"\b(MONGODB_\w+)=", setup)) == set(re.findall(r"\bMONGODB_\w+", script))


def _options(command: list[str]) -> dict[str, str]:
    return {name.lstrip("-"): value for name, value in pairwise(command) if name.startswith("-")}


def test_a_mongod_that_runs_takes_what_its_file_says() -> None:
    text = (ROOT / "docs" / "deploying.md").read_text()
    [said] = re.findall(r"db\.adminCommand\(\{setParameter: 1, (.+)\}\)", text)
    assert dict(each.split(": ") for each in said.split(", ")) == _parameters(SERVICES["mongodb-1"]["command"])


def _parameters(command: list[str]) -> dict[str, str]:
    return dict(word.split("=") for before, word in pairwise(command) if before == "--setParameter")


def test_the_proxy_finds_the_web_processes_and_is_believed() -> None:
    template = (DEPLOY / "nginx" / "feedlab.conf.template").read_text()
    servers = re.findall(r"^\s+server ([\w-]+):(\d+)", template, re.MULTILINE)
    web = {name: service for name, service in ours() if "serve" in service["command"]}
    assert [name for name, _ in servers] == list(web)
    (subnet,) = COMPOSE["networks"]["front"]["ipam"]["config"]
    for (name, port), service in zip(servers, web.values(), strict=True):
        assert service["command"][service["command"].index("--port") + 1] == port, name
        assert service["environment"]["FEEDLAB_TRUSTED_PROXIES"] == subnet["subnet"]
        assert service["environment"]["FEEDLAB_ALLOWED_HOSTS"] == SERVICES["proxy"]["environment"]["SERVER_NAME"]
    assert set(re.findall(r"\$\{(\w+)\}", template)) == SERVICES["proxy"]["environment"].keys()


def test_the_image_runs_as_nobody_who_may_do_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    said = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    last = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert last["USER"] == "10001"
    assert "--constraint constraints.txt" in " ".join(lines)
    copied = {word for word, rest in said if word == "COPY" for word in rest.split()[:-1] if not word.startswith("-")}
    assert all((ROOT / name).exists() for name in copied - {"/opt/feedlab"})
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= copied
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    assert all(f"!{name}\n" in ignored for name in copied - {"/opt/feedlab"})
    assert json.loads(last["ENTRYPOINT"]) == ["feedlab"]
    runs(json.loads(last["CMD"]), monkeypatch)
    assert json.loads(last["CMD"]) == SERVICES["web-1"]["command"]
    for _, service in ours():
        runs(service["command"], monkeypatch)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit(unit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = unit.read_text().replace("%i", "8000")
    assert "[Service]" not in text or "NoNewPrivileges=yes" in text
    for command in re.findall(r"/opt/feedlab/bin/feedlab ([^'\n]+)", text):
        words = shlex.split(command)
        if "$$(" in command:
            words = ["backup", "FILE", *words[words.index("--stack") :]]
        runs(words, monkeypatch)
    for file in (DEPLOY / "systemd").iterdir():  # each refers to others
        name = file.name.replace("@", "@8000")
        (tmp_path / name).write_text(file.read_text().replace("/opt/feedlab/bin/feedlab", shutil.which("true") or ""))
    if verify := shutil.which("systemd-analyze"):
        command = [verify, "verify", "--man=no", tmp_path / unit.name.replace("@", "@8000")]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr


STOCK = {"multi-user.target", "timers.target"}  # systemd reaches them at every start of the machine


def of_unit(name: str) -> dict[str, str]:
    """The settings of a unit of ours, by name; an instance has those of its template."""
    lines = (DEPLOY / "systemd" / re.sub(r"@.*(?=\.)", "@", name)).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_what_is_enabled_as_documented_comes_back_after_a_reboot() -> None:
    """By whatever wants it, up to what systemd itself reaches."""
    said = " ".join((ROOT / "docs" / "deploying.md").read_text().split())
    names = [name for words in re.findall(r"`systemctl enable --now ([^`]+)`", said) for name in words.split()]
    enabled = {name if "." in name else f"{name}.service" for name in names}
    kinds = {re.sub(r"@[^.]+", "@", name) for name in enabled}
    assert kinds == {path.name for path in (DEPLOY / "systemd").iterdir() if "[Install]" in path.read_text()}
    for name in enabled:
        wanted_by = of_unit(name)["WantedBy"]
        assert wanted_by in enabled | STOCK, f"nothing starts {name}"


def test_a_clone_that_has_built_another_version_ships_nothing_of_it() -> None:
    """setuptools keeps in `build` what it has built, deleted files too, and a wheel has all that is there."""
    steps = (ROOT / "docs" / "deploying.md").read_text().split("### The processes")[1]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    [(folder, before)] = re.findall(r"`rm -rf (\w+)`(.+?)/pip install", steps, re.DOTALL)
    assert f"{folder}/" in ignored, "so no checkout removes it"
    assert before.count("`") == 1, "before that very command"


def test_what_is_always_started_again_is_never_given_up() -> None:
    restarted = [path.name for path in UNITS if of_unit(path.name).get("Restart") == "always"]
    assert restarted == ["feedlab-web@.service", "feedlab-worker@.service"]
    assert {of_unit(name)["StartLimitIntervalSec"] for name in restarted} == {"0"}


def test_an_operators_command_has_the_settings_of_the_units(tmp_path: Path) -> None:
    """With systemd: what the script asks systemd-run for."""
    asked = tmp_path / "systemd-run"
    asked.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    asked.chmod(0o755)
    command = [str(DEPLOY / "systemd" / "feedlab"), "restore", "of today.feedlab", "--yes"]
    ran = subprocess.run(command, env={"PATH": f"{tmp_path}:/bin"}, capture_output=True, text=True, check=True)
    *options, program, restore, file, yes = ran.stdout.splitlines()
    web, saves = of_unit("feedlab-web@8000.service"), of_unit("feedlab-backup.service")
    assert web["ExecStart"].split()[0] == program
    assert (restore, file, yes) == ("restore", "of today.feedlab", "--yes")
    for wanted in (
        *(f"--uid={web['User']}", f"--property=EnvironmentFile={web['EnvironmentFile']}", "--wait", "--pipe"),
        *(f"--property={name}={saves[name]}" for name in ("StateDirectory", "StateDirectoryMode")),
        f"--working-directory=/var/lib/{saves['StateDirectory']}",
    ):
        assert wanted in options
    if real := shutil.which("systemd-run"):
        known = subprocess.run([real, "--help"], capture_output=True, text=True, check=True).stdout
        assert all(option.partition("=")[0] in known for option in options)


def test_an_operators_command_has_the_settings_of_the_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Compose: a container that is not started with the rest, and keeps what is written."""
    operator, worker = SERVICES["operator"], SERVICES["worker-1"]
    assert operator["profiles"]
    settings = [Config.from_environment(each["environment"]) for each in (operator, worker)]
    assert len({config.model_copy(update={"mongodb_url": None}) for config in settings}) == 1
    assert operator["working_dir"] in [volume.split(":")[1] for volume in operator["volumes"]]
    said = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    commands = re.findall(r"docker compose run --rm --no-deps operator (\w+ [^`\n]+)", said)
    assert len(commands) >= 2
    monkeypatch.chdir(ROOT)
    for command in commands:
        words = shlex.split(re.sub(r"\$\([^)]+\)\S*|FILE", "README.md", command))
        runs(words, monkeypatch)


def test_the_runbook_acts_on_the_system_that_there_is() -> None:
    """By processes that units and containers start: a command's own would end with its terminal."""
    operations, deploying = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("operations", "deploying"))
    runbook, scale = operations[operations.index("## Runbook") :], deploying[deploying.index("## Scale") :]
    beside = {"serve", "worker", "seed", "bench", "walkthrough"}
    asked = [command for command in commands_in(runbook) if f"`feedlab {command}` in a clone" not in runbook]
    assert len(asked) > 4
    assert not {command.split()[0] for command in asked} & beside
    assert "`--" not in runbook, "an option without its command"
    instances = re.findall(r"`systemctl (?:start|enable --now) (feedlab-\w+@)\d+`", runbook + scale)
    assert len(instances) == 3
    assert {f"{name}.service" for name in instances} <= {path.name for path in UNITS}
    started = re.findall(r"`docker compose up --detach --no-deps (?:--wait )?([\w -]+)`", runbook + scale)
    assert [names.split() for names in started] == [["worker-1", "worker-2"], ["web-3", "worker-3"], ["NAME"]]
    assert {"web-2", "worker-2"} <= SERVICES.keys()


def test_an_update_with_compose_ends_at_the_first_that_does_not_become_healthy(tmp_path: Path) -> None:
    """The loop of the document, with a Docker whose second container fails."""
    asked = tmp_path / "asked"
    for name, does in (("docker", 'case "$*" in *--wait\\ web-2) exit 1;; esac'), ("sleep", "")):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {asked}\n{does}\n')
        (tmp_path / name).chmod(0o755)
    text = (ROOT / "docs" / "deploying.md").read_text()
    [loop] = re.findall(r"^\$ (for name in .+; done)$", text, re.MULTILINE)
    subprocess.run(["sh", "-c", loop], env={"PATH": f"{tmp_path}:/bin:/usr/bin"}, check=False)
    first, pause, last = (line.split() for line in asked.read_text().splitlines())
    assert (first[-1], pause[0], last[-1]) == ("web-1", "sleep", "web-2")
    assert "--no-deps" in first, "or servers would be replaced meanwhile"
    [every] = re.findall(r"for name in ([\w -]+);", loop)
    assert every.split() == [name for name, _ in ours() if name != "operator"]


def test_who_updates_waits_until_the_proxy_asks_the_process_before_again() -> None:
    """nginx holds it for dead for a while after it answers: if the next one is stopped meanwhile, nobody is left."""
    template = (DEPLOY / "nginx" / "feedlab.conf.template").read_text()
    dead_s = {int(seconds) for seconds in re.findall(r" fail_timeout=(\d+)s;", template)}
    text = " ".join((ROOT / "docs" / "deploying.md").read_text().split())
    pauses = re.findall(r"&& sleep (\d+) \|\| break", text)
    [said, held] = re.findall(r"then (\w+) seconds more: for (\w+) after its last failure \(`fail_timeout`\)", text)[0]
    assert {NUMBERS.index(held)} == dead_s
    assert all(int(pause) > max(dead_s) for pause in [*pauses, NUMBERS.index(said)])
    assert len(pauses) == 1


def test_an_update_with_compose_brings_into_force_what_containers_read_once() -> None:
    """From a folder of ours: nothing of it is in an image, so nothing else makes them anew."""
    text = (ROOT / "docs" / "deploying.md").read_text()
    [names] = re.findall(r"^\$ docker compose up --detach --no-deps --force-recreate (.+)$", text, re.MULTILINE)
    folders = ("./nginx", "./prometheus", "./alertmanager")
    assert names.split() == [
        name
        for name, service in SERVICES.items()
        if any(volume.startswith(folders) for volume in service.get("volumes", ()))
    ]


def test_a_web_process_may_make_indexes_for_longer_than_a_start_takes() -> None:
    """Meanwhile it answers nothing, and whoever updates must not take that for a failure."""
    serving = {name: service["healthcheck"] for name, service in ours() if "serve" in service["command"]}
    assert serving.keys() == {"web-1", "web-2"}
    assert {check["start_period"] for check in serving.values()} == {"1h"}


def test_a_web_process_listens_for_a_proxy_on_its_machine_unless_told_otherwise() -> None:
    """What EnvironmentFile= says goes before Environment=."""
    web = of_unit("feedlab-web@8000.service")
    defaults = dict(word.split("=") for word in web["Environment"].split())
    command = shlex.split(web["ExecStart"])
    assert command[command.index("--host") + 1] == "${LISTEN}"
    assert IPv4Address(defaults["LISTEN"]).is_loopback
    example = (DEPLOY / "systemd" / "feedlab.env.example").read_text()
    assert f"FEEDLAB_TRUSTED_PROXIES={defaults['LISTEN']}\n" in example
    assert "\n#LISTEN=" in example


def test_nginx_on_a_machine_of_its_own_takes_what_the_document_makes(tmp_path: Path) -> None:
    """With other places for its ports and files, and without the user of its package."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    text = (ROOT / "docs" / "deploying.md").read_text()
    [steps] = re.findall(r"^   \$ (sed 's/.user nginx.+?)^   \$ nginx -t", text, re.MULTILINE | re.DOTALL)
    for folder in ("conf.d", "tls"):
        (tmp_path / folder).mkdir()
    certificates = Certificates.made(tmp_path, NAME)
    shutil.copy(certificates.server, tmp_path / "tls" / "feedlab.pem")
    shutil.copy(certificates.key, tmp_path / "tls" / "feedlab.key")
    script = steps.replace("\n   $ ", "\n").replace("/etc/nginx/", f"{tmp_path}/")
    subprocess.run(["sh", "-ec", script], cwd=DEPLOY, check=True)
    for file, replaced in (
        ("nginx.conf", ("user www-data;", "pid /run/", "include /etc/nginx/mime.types;", "/etc/nginx/")),
        ("conf.d/feedlab.conf", ("listen 80;", "listen 443 ", "/etc/nginx/")),
    ):
        made = (tmp_path / file).read_text()
        for said in replaced:
            assert said in made
        assert "${" not in made
        with_port = re.sub(r"listen \d+", lambda _: f"listen 127.0.0.1:{free_port()}", made)
        anywhere = re.sub(r"user www-data;|include .+mime.types;", "", with_port).replace(
            "http {", f"http {{ access_log off; {paths}"
        )
        (tmp_path / file).write_text(anywhere.replace("/run/", f"{tmp_path}/").replace("/etc/nginx/", f"{tmp_path}/"))
    upstream = re.findall(r"^    server (\S+) ", (tmp_path / "conf.d" / "feedlab.conf").read_text(), re.MULTILINE)
    enabled = re.findall(r"feedlab-web@(\d+)", text[: text.index(steps)])
    assert upstream == [f"127.0.0.1:{port}" for port in dict.fromkeys(enabled)]
    if (program := shutil.which("nginx")) is None:
        assert os.environ.get("CI") != "true", "nginx is missing"
        pytest.skip("needs nginx")
    command = [program, "-t", "-q", "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.fixture
def before_nobody(tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of the proxy as it is shipped; no web process answers."""
    certificates, port = Certificates.made(tmp_path, NAME), free_port()
    retries = httpx.HTTPTransport(retries=20, verify=certificates.client())  # until nginx listens
    with (
        proxy(tmp_path, port, [free_port(), free_port()]),
        httpx.Client(transport=retries, base_url=f"https://127.0.0.1:{port}", headers={"host": NAME}) as client,
    ):
        yield client


@pytest.mark.servers
def test_strangers_see_no_figures_and_browsers_stay_with_tls_whatever_is_away(before_nobody: httpx.Client) -> None:
    for path in ("/", "/metrics", "/readyz", "/%6detrics", "/metrics%0a"):
        answer = before_nobody.get(path)
        assert answer.status_code == (503 if path == "/" else 404), path
        assert answer.headers["strict-transport-security"] == "max-age=31536000", path


@pytest.mark.servers
def test_people_are_told_by_a_page_that_no_web_process_answers(before_nobody: httpx.Client) -> None:
    for accepted, type in (("text/html,*/*;q=0.8", "text/html"), ("*/*", "application/problem+json")):
        answer = before_nobody.get("/", headers={"accept": accepted})
        assert (answer.status_code, answer.headers["content-type"]) == (503, type)
        assert (answer.headers["retry-after"], answer.headers["cache-control"]) == ("1", "no-store")
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert answer.text.startswith("<!doctype html>") == (type == "text/html")


def test_the_environment_of_the_units_is_one_that_there_can_be() -> None:
    lines = (DEPLOY / "systemd" / "feedlab.env.example").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert set(given) <= {f"{PREFIX}{field.upper()}" for field in Config.model_fields}
    assert len(Config.from_environment(given).memcached) == 2


def test_the_proxy_has_room_for_the_live_streams_of_all_web_processes() -> None:
    """Each takes two connections of it."""
    text = (DEPLOY / "nginx" / "nginx.conf").read_text()
    (connections,) = re.findall(r"worker_connections (\d+);", text)
    (files,) = re.findall(r"worker_rlimit_nofile (\d+);", text)
    web = [name for name, service in ours() if "serve" in service["command"]]
    assert int(connections) >= 2 * len(web) * Config().live_connections
    assert int(connections) <= int(files) == SERVICES["proxy"]["ulimits"]["nofile"]["hard"]
    assert "./nginx/nginx.conf:/etc/nginx/nginx.conf:ro" in SERVICES["proxy"]["volumes"]


def directives(text: str) -> set[str]:
    """Those that say how, not where: names, ports and files are everybody's own. One has a map for `Connection`."""
    lines = {re.sub(r" +#.*|;.*", "", line.strip()) for line in text.splitlines() if ";" in line}
    places = r"listen|server_name|ssl_certificate|proxy_pass|proxy_set_header (Connection|Upgrade)"
    return {line for line in lines if not re.match(places, line)}


def test_the_proxy_of_the_document_is_the_one_that_is_shipped() -> None:
    """Less what several web processes need."""
    [shown] = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "proxy.md").read_text(), re.DOTALL)
    described, shipped = directives(shown), directives((DEPLOY / "nginx" / "feedlab.conf.template").read_text())
    assert len(described) > 10
    assert described <= shipped
    for name in ("limit_conn", "client_max_body_size", "proxy_read_timeout", "add_header Strict-Transport-Security"):
        assert len({line for line in shipped if line.startswith(f"{name} ")}) == 1, name


def test_the_proxy_gives_a_connection_up_before_the_web_process_does() -> None:
    """What was sent on one that is being closed may have been read: nginx does not repeat a post."""
    template = (DEPLOY / "nginx" / "feedlab.conf.template").read_text()
    upstream = template[: template.index("\n}")]
    (kept_s,) = re.findall(r"^    keepalive_timeout (\d+)s;", upstream, re.MULTILINE)
    assert 1 <= int(kept_s) <= serve._uvicorn(Starlette(), Config()).config.timeout_keep_alive - 1


def test_a_web_process_that_is_made_anew_is_where_the_proxy_looks_for_it() -> None:
    """nginx asks once for the address of a name, and others may have got it meanwhile."""
    (front,) = COMPOSE["networks"]["front"]["ipam"]["config"]
    others = IPv4Network(front["ip_range"])
    web = [service for _, service in ours() if "serve" in service["command"]]
    places = [IPv4Address(service["networks"]["front"]["ipv4_address"]) for service in web]
    assert len(set(places)) == len(places)
    for place in places:
        assert place in IPv4Network(front["subnet"])
        assert place not in others
    assert others.subnet_of(IPv4Network(front["subnet"]))


def test_the_proxy_sees_the_address_of_whoever_comes() -> None:
    """By IPv4. To a network without IPv6 Docker hands a connection over IPv6 from its own address."""
    used = {name for name in SERVICES["proxy"]["networks"] if COMPOSE["networks"][name].get("enable_ipv6")}
    assert not used
    assert [port.rpartition(":")[0] for port in SERVICES["proxy"]["ports"]] == ["0.0.0.0:80", "0.0.0.0:443"]


def test_the_proxy_starts_whichever_web_process_is_away() -> None:
    """It does not where it cannot find out the address of one, and Docker tells those of containers that run."""
    web = {name: service for name, service in ours() if "serve" in service["command"]}
    places = [f"{name}:{service['networks']['front']['ipv4_address']}" for name, service in web.items()]
    assert SERVICES["proxy"]["extra_hosts"] == places
    assert "depends_on" not in SERVICES["proxy"]


def test_a_mongod_that_is_only_there_to_be_set_up_is_not_taken_for_a_member() -> None:
    """It listens on 127.0.0.1, and whoever waits for a member goes on to set the replica set up."""
    for name in ("mongodb-1", "mongodb-2", "mongodb-3"):
        kind, command = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD-SHELL", "which knows the variable"
        words = shlex.split(command)
        assert words[words.index("--host") + 1] == "$HOSTNAME"


SHELL = """
const done = [];
const process = { env: { MONGODB_MEMBERS: "a:1,b:2", MONGODB_ROOT_PASSWORD: "of root", MONGODB_PASSWORD: "new" } };
const fails = (codeName) => { throw Object.assign(new Error(codeName), { codeName }); };
let root = ROOT;
const rs = {
  initiate: (set) => BEGUN ? fails("AlreadyInitialized") : done.push(["set", set.members.map((each) => each.host)]),
};
const makes = (what) => (name, more) => done.push([what, more ? more.pwd : name.pwd]);
const there = { getUser: () => THERE, createUser: makes("create"), updateUser: makes("update") };
const db = {
  auth: (name, password) => name === "root" && password === root || fails("AuthenticationFailed"),
  hello: () => ({ isWritablePrimary: true }),
  createUser: (user) => { root = user.pwd; done.push([user.user, user.roles]); },
  getSiblingDB: () => there,
};
"""


@pytest.mark.parametrize(
    ("root", "begun", "there", "does"),
    [
        ("null", "false", "null", [["set", ["a:1", "b:2"]], ["root", ["root"]], ["create", "new"]]),
        ("'of root'", "false", "null", [["set", ["a:1", "b:2"]], ["create", "new"]]),
        ("'of root'", "true", "true", [["update", "new"]]),
    ],
    ids=["on a machine of its own", "in a container whose image has made root", "again, with another password"],
)
def test_mongodb_is_set_up_once_and_has_the_passwords_of_the_settings(
    root: str, begun: str, there: str, does: list[Any]
) -> None:
    if (node := shutil.which("node")) is None:
        assert os.environ.get("CI") != "true", "node is missing"
        pytest.skip("needs node")
    shell = SHELL.replace("ROOT;", f"{root};").replace("BEGUN", begun).replace("THERE", there)
    script = f"{{{shell}{(DEPLOY / 'mongodb' / 'setup.js').read_text()}; console.log(JSON.stringify(done))}}"
    ran = subprocess.run([node, "-"], input=script, capture_output=True, text=True)
    assert (ran.stderr, json.loads(ran.stdout)) == ("", does)
