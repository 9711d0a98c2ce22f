"""Pauses between tries, where somebody else was faster."""

import random
from collections.abc import Iterator

TRIES = 20  # their pauses last for about as long as a request may wait for servers
FIRST_S, LONGEST_S = 0.01, 0.5


def pauses_s() -> Iterator[float]:
    """Yield how long to wait after each of TRIES that failed: ever longer, up to a limit, and shorter by chance, so
    that those who were in each other's way are not again.
    """
    for n in range(TRIES):
        yield min(FIRST_S * 2**n, LONGEST_S) * random.uniform(0.5, 1)
