"""What is asserted of the board alone; `tests/test_another_phase.py` runs it with `-p tests.another`."""

from pathlib import Path

from benchmarks.plan import Load, need, plan
from benchmarks.report import Comparison, load
from tests.another.p7_board import BOARD
from tests.benchmarks.command import bench
from tests.benchmarks.test_compare import SMALL
from tests.benchmarks.test_plan import MEASURED, NAMED
from tests.world import IN_WORKER, KEEPING, SLUGS


def test_it_is_one_of_them() -> None:
    assert all(slugs[-1] == BOARD.slug for slugs in (SLUGS, KEEPING, IN_WORKER))


def test_it_is_compared(tmp_path: Path) -> None:
    written, page = tmp_path / "report.json", tmp_path / "page.html"
    chosen = ("--phases", f"{SLUGS[0]},{BOARD.slug}", "--json", str(written), "--html", str(page))
    done = bench("compare", "--stack", "memory", "--allow-standins", *SMALL, *chosen)
    assert done.exit_code == 0, done.output
    report = load(written)
    assert isinstance(report, Comparison)
    assert report.phases[BOARD.slug].checked_pages > 0
    assert not report.phases[BOARD.slug].errors
    assert BOARD.slug in page.read_text()


def test_it_is_planned_for() -> None:
    """Its own figures: what one of the others was measured to cost, and its row's store and recipients."""
    units = MEASURED.units | {BOARD.slug: MEASURED.units[IN_WORKER[0]]}
    measured = MEASURED.model_copy(update={"units": units})
    load_ = Load(10_000, 150, 2_000, posts_per_day=10_000, reads_per_day=100_000, active_share=0.2)
    needed, other = need(load_, measured, BOARD), need(load_, measured, NAMED[IN_WORKER[0]])
    assert needed.deliveries_per_day == other.deliveries_per_day, "both deliver to every follower"
    assert 0 < needed.disk_bytes < other.disk_bytes
    assert BOARD.slug in [each.phase for each in plan(load_, measured).needs]
