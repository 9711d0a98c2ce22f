"""The house: where the drivers are, and what the layers in pyproject.toml cannot say."""

import ast
import inspect
import re
import tokenize
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

from phases import PHASES

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "phases", "workers", "benchmarks")
TOP_LEVEL = {"app", "phases", "workers", "templates", "benchmarks", "deploy", "tests", "docs"}

DRIVERS = {"motor", "mongomock_motor", "rq", "redis", "fakeredis", "pymemcache"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


def imports(path: Path) -> set[str]:
    """Imported modules, lazily imported ones included; `from a import b` counts as a.b."""
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_room_has_a_place_among_the_layers() -> None:
    """A phase's p-file needs none: it is one file and one name."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    places = {
        f"{container}{place.strip()}"
        for contract in contracts
        for container in [f"{name}." for name in contract.get("containers", [])] or [""]
        for layer in contract.get("layers", [])
        for place in layer.split("|")
    }
    homeless = {
        module
        for module, path in modules()
        if not path.match("phases/p?_*.py") and module.count(".") == 1 and module.startswith(("app.", "phases."))
    } - places
    assert not homeless


def test_no_file_needs_itself() -> None:
    """Packages' own files included, which the contracts of import-linter leave out."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    TopologicalSorter({file: graph.find_modules_directly_imported_by(file) for file in graph.modules}).prepare()


def test_drivers_are_imported_in_the_stack_only() -> None:
    for module, path in modules():
        drivers = {name for name in imports(path) if name.partition(".")[0] in DRIVERS}
        assert not drivers or module.startswith(("app.stack", "app.servers")), f"{module} imports {drivers}"


def test_what_a_phase_overrides_keeps_the_names_of_its_arguments() -> None:
    """Who reads the p-files one after the other compares them."""
    kinds = {kind for phase in PHASES for kind in (phase.store, phase.recipients) if kind}
    others = [
        f"{kind.__qualname__}.{name}"
        for kind in kinds
        for base in kind.__mro__
        for name, method in inspect.getmembers(base, inspect.isfunction)
        if name != "__init__"
        and inspect.signature(method).parameters.keys() != inspect.signature(getattr(kind, name)).parameters.keys()
    ]
    assert not others


def test_only_the_config_reads_the_environment() -> None:
    readers = {module for module, path in modules() if "os.environ" in path.read_text()}
    assert readers <= {"app.config", "app.servers.children", "app.servers.programs"}, readers


FIGURE = re.compile(
    r"""\d\ (ms|µs)\b | \d\ times\ what | \b(two|three|four|five|ten)\ times\ as | \b(half|twice)\ as\ (long|fast|slow)
    | half\ as\ long\ again | \ba\ (third|quarter|fifth|sixth)\ (of\ (its|the)|smaller)""",
    re.VERBOSE,
)


def test_a_measured_figure_in_a_comment_has_its_command() -> None:
    """Else nobody can say whether it still is so. The benchmarks measure themselves."""
    for module, path in modules():
        with path.open("rb") as code:
            said = [
                " ".join(token.string.split())
                for token in tokenize.tokenize(code.readline)
                if token.type == tokenize.COMMENT or token.string.startswith('"""')
            ]
        without = [text for text in said if FIGURE.search(text) and "feedlab bench" not in text]
        assert not without or module.startswith("benchmarks."), f"{module}: {without}"


def test_nothing_is_judged_by_an_assert() -> None:
    """`python -O` leaves it out: an assert is for what cannot be, and nobody handles that."""
    for module, path in modules():
        tree = parsed(path)
        handled = [node.type for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type]
        assert not any("AssertionError" in ast.unparse(error) for error in handled), module


def test_a_phase_fits_on_a_screen() -> None:
    for path in sorted((ROOT / "phases").glob("p?_*.py")):
        assert len(path.read_text().splitlines()) < 150, path.name


def test_the_top_level_is_the_agreed_one() -> None:
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    assert folders - {"build", "feedlab.egg-info"} - {"__pycache__"} <= TOP_LEVEL


def test_every_text_that_is_read_or_written_has_its_encoding_said() -> None:
    """Python's own choice is the locale's: a page that says UTF-8 was Latin-1 under LC_ALL=de_DE.ISO-8859-1."""
    silent = []
    for name, path in modules():
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            said = {keyword.arg for keyword in node.keywords}
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and a.value in ("r", "w", "a")]
            needs = {"read_text": len(node.args) < 1, "write_text": len(node.args) < 2, "open": modes, "fdopen": modes}
            if needs.get(node.func.attr) and "encoding" not in said:
                silent.append(f"{name}:{node.lineno}")
    assert not silent


FIRST, SECOND = (
    ("NotFound", "Forbidden", "Conflict", "WrongPassword", "TooMany"),
    ("Invalid", "Rejected", "HTTPException"),
)
MESSAGES = dict.fromkeys(FIRST, 0) | dict.fromkeys(SECOND, 1)  # which argument it is


def test_whatever_is_refused_is_refused_in_a_sentence() -> None:
    odd, seen = [], 0
    for name, path in modules():
        for call in ast.walk(parsed(path)):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in MESSAGES:
                continue
            for message in call.args[MESSAGES[call.func.id] :][:1]:
                if isinstance(message, ast.Constant | ast.JoinedStr):
                    seen += 1
                    if not re.fullmatch(r"""f?(["'])[A-Z{].*\.\1""", ast.unparse(message)):
                        odd.append(f"{name}:{call.lineno}")
    assert not odd
    assert seen > 50


CONTINUES = re.compile(r"(?:Of|The same|As)\b")  # the name before it, or a neighbour
LEAST_WORDS = 3


def docstrings(path: Path) -> list[tuple[int, str]]:
    """Return (line, docstring) of a module and of every class and function in it, nested and private ones included."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(parsed(path)) if isinstance(node, documented)]
    return [(node.body[0].lineno, text) for node in nodes if (text := ast.get_docstring(node)) is not None]


def test_a_docstring_stands_alone() -> None:
    """Hover and help() show it without the line above it and without its neighbours."""
    odd, seen = [], 0
    starter = ROOT / "docs/walkthrough/p7_listeners.py"  # to be copied into `phases/`
    for name, path in [*modules(), (starter.stem, starter)]:
        for line, text in docstrings(path):
            seen += 1
            if CONTINUES.match(text) or len(text.split()) < LEAST_WORDS:
                odd.append(f"{name}:{line}: {text.splitlines()[0]}")
    assert not odd
    assert seen > 1_000


def test_no_text_leads_to_a_document_that_is_not_here() -> None:
    elsewhere = re.compile(r"\bDESIGN\b|\b(?:API|ARTICLE|STYLE)\.md\b")
    files = [path for _, path in modules()] + list((ROOT / "docs").rglob("*.md"))
    assert [path.name for path in files if elsewhere.search(path.read_text(encoding="utf-8"))] == []
