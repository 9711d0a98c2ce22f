"""The logs of a process: they go to standard error, and never more than a reader can use, however often something
happens.
"""

import json
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

Form = Literal["text", "json"]

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")  # of the request that this task answers

EACH, WINDOW_S = 20, 60.0  # records of one place in the code that are written within the window


class Sparing(logging.Filter):
    """A filter that lets through only so many records of one place in the code in a while; the next one says how many
    were left out.
    """

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


class Outages:
    """Logs that a server is away, and that it is back: once per change."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self.is_away = log, False

    def tell(self, is_away: bool, words: str) -> None:
        if is_away != self.is_away:
            self.is_away = is_away
            self._log.warning(words, stacklevel=2)  # each place that tells has its own share of the log


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        request = REQUEST_ID.get()
        return super().formatMessage(record) + (f" [request {request}]" if request else "")


class _Json(logging.Formatter):
    """A formatter that writes one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if request := REQUEST_ID.get():
            said["request_id"] = request
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def formatter(form: Form) -> logging.Formatter:
    return _Json() if form == "json" else _Text("%(asctime)s %(levelname)s %(name)s: %(message)s")


def spoken(line: str) -> str:
    """Return what a command tells whoever runs it, in the form that the other lines have."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Json):
            return handler.formatter.format(logging.LogRecord("feedlab", logging.INFO, "", 0, line, None, None))
    return f"feedlab: {line}"


def to_stderr(form: Form = "text") -> None:
    """Log to standard error from warnings up, for the whole process, libraries and Python's own warnings included."""
    handler = logging.StreamHandler()
    handler.addFilter(Sparing())
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
