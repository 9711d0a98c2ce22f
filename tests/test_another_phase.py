"""A phase is one file: with one more, everything that deals with phases passes without another edit. What the contract
suite says of ours, it says elsewhere.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from phases import PHASES

ROOT = Path(__file__).resolve().parent.parent
NAME = "(?:" + "|".join(phase.slug for phase in PHASES) + ")"
LIST = re.compile(rf"""(?<![\w+]){NAME}["']?,\s*["']?{NAME}["']""")

ONE_SUBJECT = (
    "away",
    "conversations",
    "hostile_jobs",
    "names",
    "notifications",
    "pictures",
    "pulled",
    "restored",
    "stream",
)  # no matter which phase
OF_NO_PHASE = "test_pages and not phase or test_api and not (phase or timeline or refresh or switch)"
SELECTED = {  # and how many tests that is at least
    "contract": (150, ("tests/contract", *(f"--ignore=tests/contract/test_{name}.py" for name in ONE_SUBJECT))),
    "oracle, API, toggle, columns, compare, plan, curves": (
        45,
        (
            *("tests/oracle/test_histories.py", "tests/test_api.py", "tests/test_pages.py"),
            *("tests/test_side_by_side.py", "tests/another/board.py", "-k", f"not ({OF_NO_PHASE})"),
        ),
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize(("at_least", "selected"), SELECTED.values(), ids=SELECTED)
def test_one_more_phase_is_taken_without_another_edit(at_least: int, selected: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "tests.another", "-q", "-m", "not servers", *selected]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    [passed] = re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert int(passed) >= at_least


def test_no_list_of_phases_outside_their_own_package() -> None:
    """The mutants quote the source as it is."""
    places = ("app", "benchmarks", "workers", "templates", "tests")
    files = [path for place in places for path in (ROOT / place).rglob("*.*") if path.suffix in (".py", ".html")]
    lists = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in files
        if path.name != "mutants.py"
        for found in LIST.finditer(path.read_text())
    ]
    assert not lists, "\n".join(lists)
