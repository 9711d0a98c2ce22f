"""`python -m tests.interleavings [WORD ...]`: every order of commands in the races whose names contain a word."""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Sequence

from tests.interleavings.races import RACES
from tests.interleavings.scheduler import Violation
from tests.interleavings.stage import Race
from tests.prove import say

LIMIT = 20_000  # schedules of one race; a race that has more is said to be cut short


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interleavings", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--limit", type=int, default=LIMIT, help="schedules of one race")
    parser.add_argument("--exact", action="store_true", help="the words are whole names")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # each schedule would say it again
    chosen = [race for race in RACES if not given.words or any(_meant(race, word, given.exact) for word in given.words)]
    if not chosen:
        parser.error("there is no such race")
    return 0 if run(chosen, given.limit) else 1


def _meant(race: Race, word: str, exact: bool) -> bool:
    return word == race.name if exact else word in race.name


def run(races: Sequence[Race], limit: int = LIMIT) -> bool:
    """One line per race, and the order of commands of the first violation in each."""
    say(f"{'race':46} {'schedules':>9} {'pruned':>7} {'states':>7} {'commands':>10} {'s':>6}")
    violations = total = 0
    for race in races:
        began = time.monotonic()
        try:
            count = asyncio.run(race.run(limit))
        except Violation as violation:
            violations += 1
            say(f"{race.name:46} VIOLATION: {violation}")
            continue
        total += count.schedules
        took = f"{time.monotonic() - began:6.1f}" + ("" if count.complete else "  cut short")
        row = f"{count.schedules:9,} {count.pruned:7,} {count.states:7,} {count.commands:10,} {took}"
        say(f"{race.name:46} {row}")
    say(f"{len(races)} races, {total:,} schedules, {violations} violations")
    return not violations


if __name__ == "__main__":
    sys.exit(main())
