"""`python -m tests.mutations [WORD ...]`: take away the guards whose names contain a word, one at a time, in a copy."""

import argparse
import ast
import os
import queue
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutations.mutants import MUTANTS, Mutant
from tests.prove import say

ROOT = Path(__file__).parents[2]
COPIED = ("app", "phases", "workers", "benchmarks", "templates", "tests", "pyproject.toml")
AT_ONCE = 2
TIMEOUT_S = 300
SCHEDULES = 10_000  # of a race: what is noticed at all is noticed early
A_FEW = 20  # of each race, without any mutation: `tests.interleavings` runs all of them
QUIETLY = ("-x", "-q", "--no-header", "-p", "no:randomly", "-p", "no:cacheprovider")
OURS = "import app, phases, workers, tests; print(*(module.__file__ for module in (app, phases, workers, tests)))"


class NotMutable(Exception):
    """The table does not fit the code, or the tests fail without any mutation."""


def apply(root: Path, mutant: Mutant) -> tuple[Path, str, str]:
    """A file, its text, and its text without the guard."""
    parts = mutant.at.split(".")
    n = next(n for n in range(len(parts), 0, -1) if (root / "/".join(parts[:n])).with_suffix(".py").exists())
    file = (root / "/".join(parts[:n])).with_suffix(".py")
    text = file.read_text()
    lines = text.splitlines(keepends=True)
    first, last = _lines_of(_parsed(text), parts[n:]) if parts[n:] else (0, len(lines))
    source = "".join(lines[first:last])
    for wanted in filter(None, (mutant.old, mutant.behind)):
        if source.count(wanted) != 1:
            raise NotMutable(f"{mutant.name}: occurs {source.count(wanted)} times in {mutant.at}: {wanted!r}")
    changed = source.replace(mutant.old, mutant.new)
    if mutant.behind:
        changed = changed.replace(mutant.behind, mutant.behind + mutant.old)
    return file, text, "".join([*lines[:first], changed, *lines[last:]])


@cache
def _parsed(text: str) -> ast.Module:
    """A file that many mutants are of is parsed once."""
    return ast.parse(text)


def _lines_of(node: ast.AST, names: Sequence[str]) -> tuple[int, int]:
    for name in names:
        node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == name)
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    assert node.end_lineno
    return node.lineno - 1, node.end_lineno


class Copy:
    """A copy of the tree, which Python imports instead of the installed one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, path / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, path / name)
        files = self.python("-c", OURS).stdout.split()
        if not all(Path(file).is_relative_to(path) for file in files):
            raise NotMutable(f"these are not the copy's: {files}")

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        file, text, changed = apply(self.path, mutant)
        file.write_text(changed)
        try:
            yield
        finally:
            file.write_text(text)

    def noticed_by(
        self, tests: Sequence[str], races: Sequence[str], marks: str, schedules: int = SCHEDULES
    ) -> str | None:
        """The first test or race that fails; nothing does when it has no answer in time."""
        try:
            return self._noticed_by(tests, races, marks, schedules)
        except subprocess.TimeoutExpired:
            return None

    def _noticed_by(self, tests: Sequence[str], races: Sequence[str], marks: str, schedules: int) -> str | None:
        if tests:
            done = self.python("-m", "pytest", *QUIETLY, "-m", marks, *tests)
            if done.returncode == 1 and (failed := re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)):
                return failed[1].rpartition("/")[2]
            if done.returncode:
                raise NotMutable(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        if races:
            done = self.python("-m", "tests.interleavings", "--exact", "--limit", str(schedules), *races)
            if done.returncode == 1 and (violated := re.search(r"^(.+?) +VIOLATION", done.stdout, re.MULTILINE)):
                return f"race: {violated[1]}"
            if done.returncode:
                raise NotMutable(f"the races ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    given = parser.parse_args()
    return 0 if run([m for m in MUTANTS if not given.words or any(word in m.name for word in given.words)]) else 1


def run(mutants: Sequence[Mutant]) -> bool:
    """One line per mutant: what noticed it."""
    with TemporaryDirectory() as directory:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for n in range(AT_ONCE):
            copies.put(Copy(Path(directory).resolve() / str(n)))
        _must_pass_unmutated(copies, mutants)

        def killer(mutant: Mutant) -> tuple[str | None, float]:
            copy, began = copies.get(), time.monotonic()
            try:
                with copy.mutated(mutant):
                    return copy.noticed_by(mutant.tests, mutant.races, mutant.marks), time.monotonic() - began
            finally:
                copies.put(copy)

        survivors = 0
        say(f"{'rule':30} {'without the guard':54} {'s':>5}  killed by")
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for mutant, (by, seconds) in zip(mutants, threads.map(killer, mutants), strict=True):
                survivors += by is None
                say(f"{mutant.rule:30} {mutant.name:54} {seconds:5.1f}  {by or 'NOTHING: IT SURVIVES'}")
    say(f"{len(mutants)} mutants, {survivors} survive")
    return not survivors


def _must_pass_unmutated(copies: "queue.SimpleQueue[Copy]", mutants: Sequence[Mutant]) -> None:
    copy = copies.get()
    races = sorted({race for mutant in mutants for race in mutant.races})
    failed = copy.noticed_by((), races, "", schedules=A_FEW)
    for marks in {mutant.marks for mutant in mutants}:
        tests = sorted({test for mutant in mutants if mutant.marks == marks for test in mutant.tests})
        failed = failed or copy.noticed_by(tests, (), marks)
    if failed:
        raise NotMutable(f"{failed} fails without any mutation")
    copies.put(copy)


if __name__ == "__main__":
    sys.exit(main())
