"""A circuit breaker: a server that did not answer is left alone for a moment, and then one request tries it."""

import time
from collections.abc import Callable


class Breaker:
    """What one process knows of whether a server answers. Source: M. Nygard, Release It!, "Circuit Breaker".

    Closed, open after a failure, half-open after the pause: then one request is let through. Nobody else waits for a
    server that is still silent; its answer closes the breaker for all. Without an answer, as where whoever asked has
    gone, another one is let through after a further pause. Several threads may let through one each, and a failure of
    before that comes during the trial costs a pause: neither makes anybody wait who would not have waited.
    """

    def __init__(self, pause_s: float, now_s: Callable[[], float] | None = None) -> None:
        self._pause_s, self._now_s = pause_s, now_s or (lambda: time.monotonic())
        self.open_until_s = 0.0  # 0: it is closed
        self._is_tried = False

    @property
    def is_open(self) -> bool:
        return self._now_s() < self.open_until_s

    def lets_through(self) -> bool:
        """Return whether to ask the server now. Whoever asks says how that ended: `failed` or `answered`."""
        if self.is_open:
            return False
        if self.open_until_s:
            self._is_tried, self.open_until_s = True, self._now_s() + self._pause_s
        return True

    def failed(self) -> None:
        self._is_tried, self.open_until_s = False, self._now_s() + self._pause_s

    def answered(self) -> None:
        """Close it, if that was the trial. While it is open, who was let through before the failure says nothing."""
        if self._is_tried:
            self._is_tried, self.open_until_s = False, 0.0
