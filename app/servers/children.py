"""Child processes that are kept running, and the signal that ends them."""

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

OURS = (sys.executable, "-P", "-m")  # never what is called `app` in the directory that somebody starts us from
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
QUICK_DEATH_S = 10.0  # who lived longer starts again with the first pause
PATIENCE = 6  # quick deaths in a row until a child is given up
LOG_LIMIT = 16 * 1024 * 1024  # a longer log becomes NAME.log.1
LONGEST_LINE = 300  # characters of a log that are shown
LOG_LOOK_S = 5.0  # how often that is looked at
STOP_DEADLINE_S = 10.0

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """The end was asked for while something was still starting."""


class Stop:
    """A request to end: by a signal, or because something failed. It may be made anywhere, also in a signal handler."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[None] = queue.SimpleQueue()  # put() is safe inside a signal handler
        self._hook: Callable[[], object] | None = None
        self.signal: int | None = None
        self.failure: str | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None or self.failure is not None

    def check(self) -> None:
        if self.requested:
            raise Stopped

    def fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self._wake()

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number
        self._wake()

    def _wake(self) -> None:
        self._requests.put(None)
        if self._hook:
            self._hook()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for `timeout_s` at most, and return whether the end was asked for. The main thread alone waits here."""
        if not self.requested:
            try:
                self._requests.get(timeout=timeout_s)
            except queue.Empty:
                return self.requested
        return True

    @contextmanager
    def calling(self, hook: Callable[[], object]) -> Iterator[None]:
        """Call `hook` when the end is asked for: the way to interrupt an event loop."""
        self._hook = hook
        try:
            yield
        finally:
            self._hook = None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and a closed terminal ask for the end, and do nothing else, until the block ends."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]  # nohup
        before = {number: signal.signal(number, self.on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(eq=False)
class Child:
    """One process in a session of its own, so that Ctrl-C in the terminal reaches only its parent.

    After `start` and `watch` a death is reported, and the same command is started again after a growing pause. After
    `patience` quick deaths in a row it is given up; with None it never is. `log`: where its output goes; None leaves it
    with ours. `started` is called at every start, with the process number. `lifeline`: its standard input is a pipe
    that ends with this process, however that ends.
    """

    name: str
    command: Sequence[str]
    log: Path | None
    _: KW_ONLY
    say: Callable[[str], None]
    gave_up: Callable[[str], None]
    started: Callable[[str, int], None] = lambda _name, _pid: None
    directory: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # beside ours
    pass_fds: Sequence[int] = ()
    lifeline: bool = False
    patience: int | None = PATIENCE

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
            with _appending(self.log) as log:
                self._log_start = log.tell() if log else 0
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE if self.lifeline else subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT if log else None,
                    cwd=self.directory,
                    env={**os.environ, **self.environment},
                    pass_fds=self.pass_fds,
                    start_new_session=True,
                )
            try:
                self.started(self.name, self._process.pid)
            except Exception as error:  # noqa: BLE001 - it runs, and that is what matters
                self.say(f"{self.name} (process {self.pid}) is not noted: {error}")

    def death(self) -> str | None:
        """Return how the child ended, with its last words; None while it lives."""
        assert self._process is not None
        code = self._process.poll()
        if code is None:
            return None
        how = f"was killed by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
        ended = f"{self.name} (process {self.pid}) {how}"
        if self.log is None:
            return ended
        words = last_line(self.log)
        return f"{ended}; its log: {self.log}" + (f"; last line: {words}" if words else "")

    def said(self, words: str) -> bool:
        """Return whether the child's log contains `words`, in whatever case, since it was started last."""
        assert self.log is not None
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return words.lower() in file.read(LOG_LIMIT).decode(errors="replace").lower()

    def watch(self) -> None:
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{self.name}", daemon=True)
        self._watcher.start()
        threading.Thread(target=self._keep_log_short, name=f"log-{self.name}", daemon=True).start()

    def _watch(self) -> None:
        try:
            self._keep()
        except Exception as error:  # noqa: BLE001 - else nobody would hear that nobody keeps it running any more
            self.gave_up(f"{self.name} is given up: {type(error).__name__}: {error}")

    def _keep(self) -> None:
        deaths, pause_s = 0, FIRST_PAUSE_S
        while True:
            assert self._process is not None
            born = time.monotonic()
            self._process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - born > QUICK_DEATH_S:
                deaths, pause_s = 0, FIRST_PAUSE_S
            deaths += 1
            if self.patience is not None and deaths >= self.patience:
                self.gave_up(f"{self.death()}. It died {deaths} times in a row and is given up.")
                return
            ended = self.death()
            while True:
                self.say(f"{ended}. Starting it again in {pause_s:.1f} s.")
                if self._stopping.wait(pause_s):
                    return
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                try:
                    self.start()
                    break
                except OSError as error:  # no process, no room for its log: that may pass
                    ended = f"{self.name} cannot be started now: {error}"

    def _keep_log_short(self) -> None:
        while self.log and not self._stopping.wait(LOG_LOOK_S):
            with suppress(OSError):  # somebody else may remove it, or keep it short
                if self.log.stat().st_size > LOG_LIMIT:
                    with suppress(OSError):  # on a full disk what is older is lost
                        shutil.copyfile(self.log, _older(self.log))
                    os.truncate(self.log, 0)  # it is open for appending, so what comes next is written at the start
                    self._log_start = 0

    def ask_to_stop(self) -> None:
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._process.terminate()

    def stop(self, deadline: float) -> None:
        """Wait for the child's end until `deadline` (of time.monotonic), then kill it. Call `ask_to_stop` first."""
        process = self._process
        if process is None:
            return
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.say(f"{self.name} (process {process.pid}) did not stop in time and is killed.")
            with suppress(ProcessLookupError):  # it stopped just now
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._watcher is not None:
            self._watcher.join()
        if process.stdin is not None:
            process.stdin.close()


@contextmanager
def running(children: Sequence[Child]) -> Iterator[None]:
    """Start and watch the children, and stop them together when the block ends."""
    try:
        for child in children:
            child.start()
            child.watch()
        yield
    finally:
        stop_together(children)


def stop_together(children: Iterable[Child], within_s: float = STOP_DEADLINE_S) -> None:
    """Send SIGTERM to all of the children, and SIGKILL to those that are left after `within_s` seconds."""
    children = list(children)
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + within_s
    for child in children:
        child.stop(deadline)


def end_with_parent() -> None:
    """Ask this process to stop as soon as its standard input, the lifeline of its parent, ends."""

    def wait() -> None:
        while os.read(0, 4_096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_DEADLINE_S)
        os._exit(1)  # nobody is left who would insist

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time ones have no name
        return f"signal {number}"


def last_line(log: Path) -> str:
    """Return the last line of the log that is not blank, at most so many characters; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4_096))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:  # none, or none that can be read now
        return ""
    return lines[-1][:LONGEST_LINE] if lines else ""


def _appending(log: Path | None) -> AbstractContextManager[IO[bytes] | None]:
    if log is None:
        return nullcontext()
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(_older(log))
    return log.open("ab")


def _older(log: Path) -> Path:
    return log.with_name(log.name + ".1")
