"""What is written, however often it happens."""

import json
import logging
import struct
import subprocess
import sys
from pathlib import Path

from app.logs import EACH, WINDOW_S, Outages, Sparing
from tests.contract.test_pictures import drawn


class Kept(logging.Handler):
    """What is written of a log."""

    def __init__(self, sparing: Sparing) -> None:
        super().__init__()
        self.written = list[str]()
        self.addFilter(sparing)

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(record.getMessage())


def test_a_flood_is_cut_short_and_counted() -> None:
    now_s = 0.0
    log, kept = logging.Logger("flooded"), Kept(Sparing(lambda: now_s))
    log.addHandler(kept)
    written = kept.written

    def flood(times: int) -> None:
        for n in range(times):
            log.warning("number %d", n)

    flood(1_000)
    log.warning("another place")
    assert written == [*(f"number {n}" for n in range(EACH)), "another place"]
    now_s += WINDOW_S
    flood(1)
    assert written[-1] == f"number 0 (and {1_000 - EACH:,} more of these before)"


def test_a_server_that_comes_and_goes_is_told_of_once_per_change_and_takes_nobodys_share() -> None:
    log, kept = logging.Logger("flooded"), Kept(Sparing())
    log.addHandler(kept)
    one, other = Outages(log), Outages(log)
    for n in range(1_000):
        one.tell(n % 4 < 2, "away" if n % 4 < 2 else "back")
    assert kept.written == ["away", "back"] * (EACH // 2)
    other.tell(False, "as ever")
    other.tell(True, "another is away")
    assert kept.written[EACH:] == ["another is away"]


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


LOOKING = """
import sys
from app import logs
from app.inbox.pictures import made_anew
logs.to_stderr("json")
made_anew(open(sys.argv[1], "rb").read(), "image/jpeg")
"""


def test_what_a_library_warns_of_is_in_the_log_and_no_flood(tmp_path: Path) -> None:
    """Pillow warns of each tag of a picture that says that it is larger than the picture."""
    tags = b"".join(struct.pack("<HHII", 0x8000 + n, 1, 1 << 30, 0) for n in range(300))
    picture = tmp_path / "picture"
    picture.write_bytes(drawn("image/jpeg", exif=b"Exif\0\0II*\0" + struct.pack("<IH", 8, 300) + tags + bytes(4)))
    done = subprocess.run([sys.executable, "-c", LOOKING, picture], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == EACH
    assert {(line["logger"], "larger than file" in line["message"]) for line in lines} == {("py.warnings", True)}
