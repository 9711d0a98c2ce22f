"""Several data centres: what the simulation says of delays, of a cut, and of pages that would be wrong."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from app.errors import Refused
from benchmarks import regions
from benchmarks.plan import measured_units
from benchmarks.regions import TIMEOUT_S, Region, Regions, Setup, delays_between, simulate
from benchmarks.report import JobTime, PhaseUnits
from tests.benchmarks.command import bench

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "docs" / "results" / "units.json"
NAMES = ("eu", "us", "ap")
BETWEEN = delays_between(NAMES, 80, ["eu,ap=140"])
QUIET = Setup(NAMES, BETWEEN)
CUT = replace(QUIET, cut="eu")


def simulated(setup: Setup) -> Regions:
    return simulate(setup, "cache", measured_units(UNITS).units["cache"])


def by_name(found: Regions) -> dict[str, Region]:
    return {region.region: region for region in found.regions}


def test_the_same_seed_says_the_same() -> None:
    assert simulated(CUT) == simulated(CUT)
    assert simulated(CUT) != simulated(replace(CUT, seed=2))


def test_a_page_has_it_as_soon_as_the_region_has_and_lists_later() -> None:
    found = by_name(simulated(QUIET))
    assert {name: round(region.page_longest_s, 6) for name, region in found.items()} == {
        "eu": 0.14,
        "us": 0.08,
        "ap": 0.14,
    }
    for region in found.values():
        assert region.list_p50_s > region.page_p50_s
        assert (region.late, region.refused, region.pages_wrong) == (0, 0, 0)
    assert found["eu"].poster_waits_s == pytest.approx(found["us"].poster_waits_s), "each is 80 ms from the nearest"


@pytest.mark.parametrize("by", ["home", "majority"])
def test_a_region_that_is_cut_off(by: Any) -> None:
    found = simulated(replace(CUT, acknowledged=by))
    regions = by_name(found)
    assert found.good, "a page shows whatever has reached its region"
    longest_s = CUT.cut_s if by == "home" else TIMEOUT_S  # who posts in it and waits for a majority is refused then
    assert {region.page_longest_s < longest_s + 2 * 0.14 for name, region in regions.items() if name != "eu"} == {True}
    assert all(region.late for region in regions.values())
    assert CUT.cut_s < regions["eu"].page_longest_s <= CUT.cut_s + 2 * 0.14
    assert (found.lost > 0) is (by == "home")
    assert {name for name, region in regions.items() if region.refused} == (set() if by == "home" else {"eu"})


def test_who_asks_the_farther_of_two_regions_waits_longer_and_is_not_refused() -> None:
    assert by_name(simulated(replace(QUIET, cut="us")))["eu"].refused == 0


def test_an_overloaded_region_is_late_on_its_lists_alone() -> None:
    found = simulated(replace(QUIET, followers=200_000, posts_per_s=10, seconds=60))
    for region in found.regions:
        assert region.workers_busy > 1
        assert region.list_p99_s > 10 * region.page_p99_s
        assert region.pages_wrong == 0
        assert region.pages_wrong_by_lists_alone > region.pages / 2


def test_what_a_cut_has_held_up_is_taken_along() -> None:
    """Hundreds of posts that come at once are no job each: 50 ms alone, 1 ms along."""
    longest_s, busy = [], []
    for along in (None, 0.001):
        units = PhaseUnits.model_construct(
            job_s=JobTime(fixed=0.05, each=0, along=along), acknowledged_s=(0.002, 0.002)
        )
        eu = by_name(simulate(replace(CUT, posts_per_s=10), "cache", units))["eu"]
        longest_s.append(eu.list_longest_s - eu.page_longest_s)
        busy.append(eu.workers_busy)
    assert longest_s[0] > 5 > 0.5 > longest_s[1]
    assert busy[0] > busy[1] > 0


def test_an_entry_that_is_taken_off_too_early_shows() -> None:
    with patch.object(regions, "_cleared_s", lambda setup, region, post, done_s: post.at_s):
        found = simulated(replace(QUIET, followers=200_000))
        assert not found.good
        ran = bench("regions", "--measured", str(UNITS), "--followers", "200000")
        assert ran.exit_code == 1


def test_the_table_in_scaling_is_what_the_command_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the measured costs that are kept, it says the same on every machine."""
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    [(command, table)] = re.findall(
        r"^\$ feedlab bench (regions .+)\n```\n\n```text\n((?:.+\n)+)```$", text, re.MULTILINE
    )
    ran = bench(*shlex.split(command))
    assert (ran.exit_code, ran.output) == (0, table)
    assert f"those of commit {json.loads(UNITS.read_text())['commit']}:" in text


def test_columns_stay_apart_however_wide_their_figures_are() -> None:
    names = ("a region with a long name", "us")
    far = Setup(
        names, delays_between(names, 80, []), posts_per_s=40, seconds=800, cut="us", cut_s=500, acknowledged="home"
    )
    narrow, broad = (list(simulated(setup).lines()) for setup in (CUT, far))
    for phase, above, head, *rows, _ in (narrow, broad):
        assert phase.startswith("phase cache")
        widths = {len(line) for line in (above, head, *rows)}
        assert len(widths) == 1, "columns end where their heads do"
        ends = [found.end() for found in re.finditer(r"\S+(?: \S+)*", head)][1:]
        for row in rows:
            cells = re.split(r" {2,}", row)
            assert len(cells) == len(re.split(r" {2,}", head)) == 13
            assert all(row[end - 1] != " " for end in ends)


def test_the_command() -> None:
    asked = ("regions", "--measured", str(UNITS), "--cut", "us", "--acknowledged", "home")
    found = json.loads(bench(*asked, "--json").output)
    assert found["lost"] > 0
    assert [region["region"] for region in found["regions"]] == list(NAMES)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--cut", "mars"),
        ("--between", "eu,mars=3"),
        *(("--between", f"eu,us={ms}") for ms in ("far", "nan", "inf", "-80")),
        ("--region", "alone"),
        ("--phase", "query"),
    ],
)
def test_what_cannot_be_simulated_is_said_in_one_line(wrong: tuple[str, str]) -> None:
    ran = bench("regions", "--measured", str(UNITS), *wrong)
    assert ran.exit_code == 2
    assert ran.stderr.splitlines()[-1].startswith("Error: ")


def test_regions_need_names() -> None:
    with pytest.raises(Refused):
        Setup(("eu", "eu"), {})
