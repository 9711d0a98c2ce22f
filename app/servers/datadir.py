"""The data directory: it has one owner at a time, and a note of what that runs, so that others find it or clean up."""

import fcntl
import os
import re
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from pydantic import BaseModel, ValidationError

from app.servers.programs import Level, ServersError

SAME_START_S = 2.0  # the kernel's date of its boot, and so of a start, is told to a second
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # of Linux
LEFTOVER_DEADLINE_S = 15.0
SOCKET_PATH = re.compile(r"[\w./ +-]+", re.ASCII)  # mongod reads addresses out of it: no colon, comma or bracket


class ProcessId(BaseModel):
    """A process, told apart by its start from a later process with the same number.

    Linux knows the time from its boot to a start, which stays when the clock steps; the date of a start moves then. The
    date counts where no boot is noted: other systems keep it, and older versions noted nothing else.
    """

    pid: int
    created: float  # seconds since the epoch
    after_boot: float = 0.0  # seconds
    boot: str | None = None

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        try:
            created = psutil.Process(pid).create_time()
        except psutil.Error:
            return None
        return cls(pid=pid, created=created, after_boot=created - psutil.boot_time(), boot=_boot())

    def find(self) -> psutil.Process | None:
        """Return the process while it runs.

        A zombie counts as ended: its parent is gone and somebody else will collect it.
        """
        if self.boot not in (None, _boot()):
            return None
        try:
            process = psutil.Process(self.pid)
            created = process.create_time()
            later = created - psutil.boot_time() - self.after_boot if self.boot else created - self.created
            return process if abs(later) < SAME_START_S and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def _boot() -> str | None:
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError:
        return None


class Note(BaseModel):
    """The content of `servers.json`. Without an owner only the last field has a meaning.

    `directory`: device and inode of the directory that it was written in. A copy of the directory holds a note that is
    not its own.
    """

    directory: tuple[int, int] | None = None
    owner: ProcessId | None = None
    purpose: str = ""
    lasting: bool = False  # others may use these servers: the owner runs until somebody stops it
    ready: bool = False  # the addresses below answer
    level: Level = "auto"
    mongodb: str | None = None
    redis: str | None = None
    memcached: tuple[str, ...] | None = None
    web: str | None = None
    sources: dict[str, str] = {}  # where each of these servers is from, in words
    children: dict[str, ProcessId] = {}
    demo_unfinished: bool = False  # one was being filled, did not come to its end, and nothing else has run since


class InUse(ServersError):
    """Another process owns the directory."""


class DataDirectory:
    """A data directory. Its paths are absolute; it and the note are for their user alone (0700 and 0600)."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self._lock_path = self.path / "lock"
        self._note_path = self.path / "servers.json"
        self._note_lock = threading.Lock()

    def note(self) -> Note:
        """Return what the owner wrote last; an empty note when there is none, or it makes no sense or is of another
        directory: whoever acts on a copy must not meet what runs for the original.
        """
        try:
            note = Note.model_validate_json(self._note_path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return Note()
        except OSError as error:
            raise ServersError(f"cannot read {self._note_path}: {error.strerror}") from None
        return note if note.directory == self._identity() else Note()

    def _identity(self) -> tuple[int, int]:
        about = self.path.stat()
        return about.st_dev, about.st_ino

    def owner(self) -> Note | None:
        """Return the note, where its owner runs now, and so has the lock; else None."""
        note = self.note()
        try:
            with self._lock_path.open("rb") as lock:
                pid = int(lock.read() or 0) if _is_locked(lock.fileno()) else None
        except FileNotFoundError:
            return None
        return note if note.owner and note.owner.pid == pid else None

    @contextmanager
    def owned(self, purpose: str, *, lasting: bool) -> Iterator[None]:
        """Own the directory until the block ends.

        Programs that a killed owner left running are stopped first. Raises InUse.
        """
        lock = self._lock()
        try:
            self.change(ready=False)  # as the owner before may have had the number of this process, in a container
            self._stop_leftovers()
            owner = ProcessId.of(os.getpid())
            unfinished = self.note().demo_unfinished
            self.write(Note(owner=owner, purpose=purpose, lasting=lasting, demo_unfinished=unfinished))
            try:
                yield
            finally:
                self.write(Note(demo_unfinished=self.note().demo_unfinished))
        finally:
            os.close(lock)

    def _lock(self) -> int:
        """Return a descriptor that holds the lock until it is closed, by whatever end of this process."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keep_others_out()
            self.logs.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ServersError(f"cannot use {self.path} as data directory: {error.strerror}") from None
        while not _took(fcntl.LOCK_EX, descriptor):
            if _is_locked(descriptor):
                pid = os.read(descriptor, 20).decode().strip()
                os.close(descriptor)
                doing = self.note().purpose
                raise InUse(
                    f"{self.path} is in use by process {pid or '(unknown)'}{f' ({doing})' if doing else ''}: "
                    "stop it first, or choose another directory with --data"
                )
            time.sleep(0.01)  # it was only looked at
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor

    def _keep_others_out(self) -> None:
        """Make the directory its user's alone, or raise ServersError.

        Whoever can enter it reads the data of the servers, and whoever can write into it has them run what they like.
        """
        status = self.path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & stat.S_ISVTX:
            raise ServersError(f"{self.path} is not a directory of yours alone: choose another with --data")
        if status.st_mode & 0o077:
            self.path.chmod(0o700)

    @contextmanager
    def sockets(self) -> Iterator[Path]:
        """Yield a directory for the servers' sockets that their owner alone can enter.

        That is DIR/sockets, or a temporary one where no socket can be bound in it: paths end at about 100 bytes, and
        some file systems have no sockets.
        """
        inside = self.path / "sockets"
        inside.mkdir(mode=0o700, exist_ok=True)
        if _holds_sockets(inside):
            yield inside
            return
        with TemporaryDirectory(prefix="feedlab-") as beside:  # made with mode 0700
            yield Path(beside)

    def change(self, **fields: Any) -> None:
        """Replace fields of the note. Only the owner may do that."""
        self._edit(lambda note: note.model_copy(update=fields))

    def child_started(self, name: str, pid: int) -> None:
        """Note a child, so that it can be stopped if this process is killed."""
        if process := ProcessId.of(pid):
            self._edit(lambda note: note.model_copy(update={"children": note.children | {name: process}}))

    def _edit(self, edit: Callable[[Note], Note]) -> None:
        with self._note_lock:
            self.write(edit(self.note()))

    def write(self, note: Note) -> None:
        """Write the note whole or not at all: a reader never sees half of it."""
        draft = self._note_path.with_name("servers.json.new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(note.model_copy(update={"directory": self._identity()}).model_dump_json(indent=1))
        draft.replace(self._note_path)

    def _stop_leftovers(self) -> None:
        """Stop what a killed owner left behind, and nothing else: number and start time must agree.

        Raises ServersError.
        """
        left = [child for child in self.note().children.values() if child.find()]
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(left, number)
            if _gone(left, LEFTOVER_DEADLINE_S):
                return
        raise ServersError(f"process {left[0].pid}, left over in {self.path}, cannot be stopped")


def _took(kind: int, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(descriptor: int) -> bool:
    """Return whether an owner has the lock. Those who look share it, for as long as this takes."""
    if not _took(fcntl.LOCK_SH, descriptor):
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _holds_sockets(directory: Path) -> bool:
    probe = directory / "the-longest.sock"
    probe.unlink(missing_ok=True)
    try:
        with socket.socket(socket.AF_UNIX) as tried:
            tried.bind(str(probe))
    except OSError:
        return False
    probe.unlink()
    return bool(SOCKET_PATH.fullmatch(str(directory)))


def _signal(children: list[ProcessId], number: int) -> None:
    for child in children:
        if process := child.find():
            with suppress(psutil.NoSuchProcess):  # it ended by itself
                process.send_signal(number)


def _gone(children: list[ProcessId], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(child.find() for child in children):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
