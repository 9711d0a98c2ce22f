"""`make scale`: a graph of a size that people have, through every phase."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import Comparison
from benchmarks.report import load as read_report
from tests.conftest import real_servers
from tests.world import SLUGS

MOST_BYTES = 4e9


@pytest.mark.scale
@pytest.mark.servers
def test_a_quarter_of_a_million_people_are_compared_in_all_phases(tmp_path: Path) -> None:
    written = tmp_path / "report.json"
    options = ("--graph", "powerlaw:250000:2", "--rounds", "1", "--json", str(written))
    with real_servers():
        bench = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "bench", "compare", *options], cwd=Path(__file__).parents[1]
        )
        _, status, used = os.wait4(bench.pid, 0)
    bench.returncode = os.waitstatus_to_exitcode(status)
    assert bench.returncode == 0
    report = read_report(written)
    assert isinstance(report, Comparison)
    assert tuple(report.phases) == SLUGS
    assert (report.missing, report.graph.people, report.graph.follows) == (0, 250_000, 500_000)
    assert all(phase.checked_pages > 0 and not phase.errors for phase in report.phases.values())
    assert used.ru_maxrss * 1024 < MOST_BYTES
