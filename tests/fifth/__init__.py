"""`pytest -p tests.fifth`: one phase more, whatever is tested. Nothing else knows of it."""

import phases
from tests.fifth.p5_board import BOARD

phases.PHASES = (*phases.PHASES, BOARD)
