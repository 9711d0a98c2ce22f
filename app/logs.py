"""What a process of ours logs: to standard error, and whatever happens how often, no more than a reader can use."""

import logging
import time
from collections.abc import Callable

EACH, WINDOW_S = 20, 60.0  # records of one place in the code that are written within the window


class Sparing(logging.Filter):
    """Of one place in the code, only so many records in a while; the next one says how many were left out."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s = now_s
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # since when, and how many

    def filter(self, record: logging.LogRecord) -> bool:
        place = record.pathname, record.lineno
        since_s, count = self._seen.get(place, (self._now_s(), 0))
        if self._now_s() - since_s >= WINDOW_S:
            if count > EACH:
                record.msg, record.args = f"{record.getMessage()} (and {count - EACH:,} more of these before)", ()
            since_s, count = self._now_s(), 0
        self._seen[place] = since_s, count + 1
        return count < EACH


def to_stderr() -> None:
    """From warnings up, for the whole process, libraries included."""
    handler = logging.StreamHandler()
    handler.addFilter(Sparing())
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, handlers=[handler])
