"""The real source: read from the code that runs, never copied."""

import difflib
import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

from phases import PHASES
from phases.base import Phase


@dataclass(frozen=True)
class Listing:
    """`path`: from the top of the project. `first_line`: counted from 1."""

    path: str
    name: str | None
    first_line: int
    code: str


@cache
def listing(dotted: str) -> Listing:
    """A module, or something in it: "phases.p1_query", "phases.p1_query.Query.ask". Raises LookupError."""
    module, rest = _module(dotted)
    path = module.__name__.replace(".", "/") + ".py"
    if not rest:
        return Listing(path, None, 1, inspect.getsource(module))
    found: Any = module
    for name in rest:
        found = inspect.getattr_static(found, name, None)
        if found is None:
            raise LookupError(f"there is no {dotted}")
    lines, first_line = inspect.getsourcelines(found)
    return Listing(path, ".".join(rest), first_line, inspect.cleandoc("\n" + "".join(lines)) + "\n")


def _module(dotted: str) -> tuple[ModuleType, list[str]]:
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            return importlib.import_module(".".join(parts[:end])), parts[end:]
        except ModuleNotFoundError:
            continue
    raise LookupError(f"there is no {dotted}")


@dataclass(frozen=True)
class Change:
    """A method of a phase. `difference`: a unified diff against the phase before; None for a method that is new."""

    name: str
    difference: str | None


@dataclass(frozen=True)
class Changes:
    """How a phase differs from the one before it in the story. `same`: the methods that they share."""

    phase: type[Phase]
    before: type[Phase]
    changes: tuple[Change, ...]
    same: tuple[str, ...]

    @property
    def new(self) -> list[str]:
        return [change.name for change in self.changes if change.difference is None]

    @property
    def replaced(self) -> list[tuple[str, str]]:
        return [(change.name, change.difference) for change in self.changes if change.difference is not None]


def changes(slug: str) -> Changes:
    """Raises LookupError for the first phase, and for one that does not exist."""
    stories = {phase.slug: (before, phase) for before, phase in pairwise(PHASES)}
    before, phase = stories[slug]
    names = [name for name in dir(phase) if not name.startswith("_") and inspect.isfunction(getattr(phase, name))]
    same = [name for name in names if getattr(phase, name) is getattr(before, name, None)]
    different = sorted(set(names) - set(same), key=lambda name: _place(phase, name))
    found = [Change(name, _difference(before, phase, name) if hasattr(before, name) else None) for name in different]
    return Changes(phase, before, tuple(found), tuple(same))


def _place(phase: type[Phase], name: str) -> tuple[bool, int]:
    """Methods of the phase's own class first, in the order of the file."""
    method = getattr(phase, name)
    return name not in vars(phase), method.__code__.co_firstlineno


def _difference(before: type[Phase], phase: type[Phase], name: str) -> str:
    old, new = (
        inspect.cleandoc("\n" + inspect.getsource(getattr(kind, name))).splitlines() for kind in (before, phase)
    )
    lines = list(difflib.unified_diff(old, new, lineterm="", n=max(len(old), len(new))))
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@"))) + "\n"
