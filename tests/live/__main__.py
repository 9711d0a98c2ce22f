"""`python -m tests.live HISTORIES [SEED]`: the equation over that many random histories, and what they came through."""

import sys

from tests.live.equation import Equation
from tests.live.test_equation import run

histories = int(sys.argv[1])
run(histories, seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
sys.stdout.write(", ".join(f"{name} {times:,}" for name, times in sorted(Equation.tally.items())) + "\n")
