"""The house: which room may open which door, and where the drivers are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "phases", "workers", "benchmarks")
TOP_LEVEL = {"app", "phases", "workers", "templates", "benchmarks", "tests", "docs"}

# Who may import whom, by the longest matching prefix. Arrows run one way: edges -> use cases -> phases -> ground.
GROUND = {
    "app",
    "app.access",
    "app.clock",
    "app.config",
    "app.edges",
    "app.errors",
    "app.models",
    "app.servers",
    "app.stack",
}
ALLOWED = {
    "app.clock": set(),
    "app.config": set(),
    "app.errors": set(),
    "app.models": set(),
    "app.stack": {"app.errors", "app.clock", "app.config", "app.models"},
    "app.servers": {"app.clock", "app.config", "app.stack"},
    "app.edges": {"app.models", "app.stack"},
    "app.access": {"app.edges", "app.models", "app.stack"},
    "phases": GROUND,
    "app.social": GROUND | {"phases"},
    "app.accounts": GROUND,
    "workers": GROUND | {"phases"},
    "app.demo": GROUND | {"phases", "app.accounts"},
    "benchmarks": GROUND | {"phases", "workers", "app.social", "app.accounts", "app.demo"},
    "app.web": GROUND | {"phases", "app.social", "app.accounts", "app.walkthrough"},
    "app.walkthrough": GROUND | {"phases", "app.social", "workers"},
    "app.doctor": GROUND,
    "app.serve": GROUND | {"phases", "workers", "app.demo", "app.web"},  # composition: it starts everything
    "app.cli": GROUND
    | {"phases", "workers", "benchmarks", "app.demo", "app.serve", "app.doctor", "app.walkthrough", "app.social"},
}
DRIVERS = {"motor", "mongomock_motor", "rq", "redis", "fakeredis", "pymemcache"}


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
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str, rooms: set[str]) -> str | None:
    return max((r for r in rooms if module == r or module.startswith(f"{r}.")), key=len, default=None)


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_arrows_run_one_way(module: str, path: Path) -> None:
    here = room(module, set(ALLOWED))
    if here is None:
        assert module == "app", f"{module} has no place in the house"
        return
    rooms = set(ALLOWED) | {"app"}
    for imported in imports(path):
        if imported.partition(".")[0] not in PACKAGES:
            continue
        there = room(imported, rooms)
        assert there in (here, *ALLOWED[here]), f"{module} ({here}) imports {imported} ({there})"


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_drivers_are_imported_in_the_stack_only(module: str, path: Path) -> None:
    drivers = {name for name in imports(path) if name.partition(".")[0] in DRIVERS}
    assert not drivers or module.startswith(("app.stack", "app.servers")), f"{module} imports {drivers}"


def test_only_the_config_reads_the_environment() -> None:
    readers = {module for module, path in modules() if "os.environ" in path.read_text()}
    assert readers <= {"app.config", "app.servers.children", "app.servers.programs"}, readers


def test_a_phase_fits_on_a_screen() -> None:
    for path in sorted((ROOT / "phases").glob("p?_*.py")):
        assert len(path.read_text().splitlines()) < 150, path.name


def test_the_top_level_is_the_agreed_one() -> None:
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    assert folders - {"build", "feedlab.egg-info"} - {"__pycache__"} <= TOP_LEVEL
