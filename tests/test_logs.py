"""What is written, however often it happens."""

import json
import logging
import subprocess
import sys

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


SPEAKING = """
import logging
from app import logs
from app.loop import event_loop
from app.servers.start import say
logs.to_stderr("json")
event_loop().close()  # made by uvicorn, whose loggers speak as ours do all the same
logs.REQUEST_ID.set("one-7")
say("ready")
logging.getLogger("app.web").warning("a server %s", "is\\naway")
try:
    raise KeyError("x")
except KeyError:
    logging.getLogger("app.web").exception("unexpected error")
logging.getLogger("app.web").info("not written")
logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
"""


def test_a_json_log_is_one_object_a_line() -> None:
    """Also what a command says to whoever runs it; a traceback stays on its line."""
    done = subprocess.run([sys.executable, "-c", SPEAKING], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines] == [
        *("ready", "a server is\naway", "unexpected error", "Invalid HTTP request received."),
    ]
    assert [line["level"] for line in lines] == ["INFO", "WARNING", "ERROR", "WARNING"]
    assert [line["logger"] for line in lines] == ["feedlab", "app.web", "app.web", "uvicorn.error"]
    assert all(line["request_id"] == "one-7" and line["process"] > 0 for line in lines)
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert lines[2]["exception"].startswith("Traceback")
    assert "exception" not in lines[1]
