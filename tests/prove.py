"""`python -m tests.prove`: everything that shows the phases to be one timeline, in one command.

A proof is a module with `prove(asked) -> bool`; it prints what it did, and what it found.
"""

import argparse
import sys
from dataclasses import dataclass
from importlib import import_module
from time import perf_counter

PROOFS = ("tests.oracle", "tests.interleavings", "tests.mutations")


@dataclass(frozen=True)
class Asked:
    """`steps` on the stand-ins, `server_steps` on real servers; both from `seed` on."""

    steps: int
    server_steps: int
    seed: int


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="steps of random histories on the stand-ins")
    parser.add_argument("--server-steps", type=int, default=2_000, help="steps of random histories on real servers")
    parser.add_argument("--seed", type=int, default=1, help="of the first batch; each further one counts on")
    parser.add_argument("--only", choices=[name.removeprefix("tests.") for name in PROOFS], help="one proof of these")
    given = parser.parse_args(arguments)
    asked = Asked(given.steps, given.server_steps, given.seed)
    failed = [name for name in PROOFS if given.only in (None, name.removeprefix("tests.")) and not _holds(name, asked)]
    say(f"\nFailed: {', '.join(failed)}." if failed else "\nAll of it holds.")
    return 1 if failed else 0


def _holds(name: str, asked: Asked) -> bool:
    say(f"\n== {name}")
    began_s = perf_counter()
    holds: bool = import_module(name).prove(asked)
    say(f"{'holds' if holds else 'FAILS'} after {perf_counter() - began_s:.0f} s")
    return holds


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
