"""The source that the walkthrough shows: read from the code that runs, never copied."""

import ast
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

TOP = Path(__file__).parents[2]


@dataclass(frozen=True)
class Listing:
    """A piece of source.

    `path`: from the top of the project. `name` inside the file; None for the whole. `first_line`: from 1.
    """

    path: str
    name: str | None
    first_line: int
    code: str


@cache
def listing(dotted: str) -> Listing:
    """Return a module without its imports, or what it defines: "phases.p1_query", "app.access.visible".

    Raises LookupError.
    """
    file, names = _file(dotted)
    source = file.read_text("utf-8")
    lines, body = source.splitlines(), ast.parse(source).body
    path = file.relative_to(TOP).as_posix()
    if not names:
        imported = {line for node in body if isinstance(node, ast.Import | ast.ImportFrom) for line in _span(node)}
        code = "\n".join(line for n, line in enumerate(lines, 1) if n not in imported)
        code = re.sub("\n{4,}", "\n\n\n", code)
        return Listing(path, None, 1, re.sub(r'\A("""[^"]*""")\n\n\n(?=[A-Z#])', r"\1\n\n", code) + "\n")
    span = range(0)
    for name in names:
        node = next((node for node in body if name in _defined(node)), None)
        if node is None:
            raise LookupError(f"there is no {dotted}")
        span, body = _span(node), getattr(node, "body", [])
    code = inspect.cleandoc("\n" + "\n".join(lines[span.start - 1 : span.stop - 1]))
    return Listing(path, ".".join(names), span.start, code + "\n")


def _file(dotted: str) -> tuple[Path, Sequence[str]]:
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            spec = find_spec(".".join(parts[:end]))
        except ModuleNotFoundError:  # what is before the last dot is no package
            continue
        if spec and spec.origin:
            return Path(spec.origin), parts[end:]
    raise LookupError(f"there is no {dotted}")


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=[*targets]):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _span(node: ast.stmt) -> range:
    """Return the lines of a statement, from its first decorator on."""
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
    assert node.end_lineno, "what is parsed has an end"
    return range(first, node.end_lineno + 1)
