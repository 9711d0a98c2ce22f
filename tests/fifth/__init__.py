"""`pytest -p tests.fifth`: five phases instead of four, whatever is tested. Nothing else knows of the fifth."""

import phases
from tests.fifth.p5_board import BOARD

phases.PHASES = (*phases.PHASES, BOARD)
