"""What is written, however often it happens."""

import logging

from app.logs import EACH, WINDOW_S, Sparing


def test_a_flood_is_cut_short_and_counted() -> None:
    now_s = 0.0
    sparing, written = Sparing(lambda: now_s), list[str]()

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(record.getMessage())

    log, kept = logging.Logger("flooded"), Kept()
    kept.addFilter(sparing)
    log.addHandler(kept)

    def flood(times: int) -> None:
        for n in range(times):
            log.warning("number %d", n)

    flood(1_000)
    log.warning("another place")
    assert written == [*(f"number {n}" for n in range(EACH)), "another place"]
    now_s += WINDOW_S
    flood(1)
    assert written[-1] == f"number 0 (and {1_000 - EACH:,} more of these before)"
