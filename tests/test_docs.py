"""What the documents say is compared with what there is."""

import re
import shlex
from pathlib import Path

import pytest
from click import Group
from click.testing import CliRunner

from app.cli import main
from app.config import Config
from app.demo.graph import MAX_FOLLOWS, MAX_PEOPLE
from app.demo.seed import BATCH
from app.models import DOCUMENTS as MODEL
from benchmarks.rig import MOST_STATUSES
from benchmarks.rounds import AHEAD, EVERYBODY
from phases import PHASES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PATH = r"(?:app|phases|workers|tests|docs|benchmarks|templates)/[\w./]*"
COMMANDS = re.findall(r"^\| `feedlab ([^`]+)` \|", README, re.MULTILINE)


def test_the_phases_in_the_readme_are_the_phases_in_the_code() -> None:
    rows = [
        f"| {n} | `{phase.slug}` | {phase.title} | {phase.poster_waits} | {phase.reader_waits} | {phase.kept} |"
        for n, phase in enumerate(PHASES, 1)
    ]
    assert "\n".join(rows) in README


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_the_readme_exists_with_its_options(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed, not run: `--help` ends it after its options have been read."""
    monkeypatch.chdir(ROOT)
    words = ["README.md" if word == "FILE" else word for word in shlex.split(command)]
    answer = CliRunner().invoke(main, [*words, "--help"])
    assert answer.exit_code == 0, answer.output
    options = {word for word in words if word.startswith("--")}
    assert all(option in answer.output for option in options), answer.output


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
    for path in re.findall(rf"`({PATH})`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(((?!http)[\w./]+)\)", text):
        assert (document.parent / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_name_behind_a_path_is_in_that_file(document: Path) -> None:
    for path, names in re.findall(rf"`({PATH}\.py)`((?:,? `\w+`)+)", document.read_text(encoding="utf-8")):
        code = (ROOT / path).read_text()
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^ *(async def|def|class)? ?{name}\b( =|[(:])", code, re.MULTILINE), f"{path} {name}"


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_sizes_in_scaling_are_those_in_the_code() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for size in (MAX_PEOPLE, MAX_FOLLOWS, BATCH, MOST_STATUSES, EVERYBODY, AHEAD):
        assert f"{size:,}" in text, size


def test_every_collection_has_a_shard_key_in_scaling() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert named == {document.Settings.name for document in MODEL} | {"settings"}


def test_this_version_is_in_the_changelog() -> None:
    from app import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=lambda path: path.name
)
def test_a_setting_in_a_document_exists(document: Path) -> None:
    for name in re.findall(r"FEEDLAB_([A-Z_]+)\b", document.read_text(encoding="utf-8")):
        assert name.lower() in Config.model_fields, name
