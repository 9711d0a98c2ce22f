"""How long MongoDB keeps snapshots is set for a backup and set back, whoever is killed, and whoever else is at it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from pymongo.errors import OperationFailure

from app.servers.commands import address
from app.servers.replica import replica_set
from app.stack import Addresses
from app.stack.mongodb import whole
from app.stack.mongodb.whole import HISTORY, WINDOW, TooLong, blocking, history_kept
from tests.dates import LONG_AGO

pytestmark = pytest.mark.servers

COMMANDS = 8  # of one that is not disturbed
SETS, SETS_BACK = 4, 3  # which of them sets the window; and one that was left, where there is a note of it


class Killed(BaseException):
    pass


class Disturbed:
    """A collection; `act` happens before the n-th command to it, or to the server by way of it."""

    def __init__(self, of: Any, before: int, act: Callable[[], object], sent: Iterator[int] | None = None) -> None:
        self._of, self._before, self._act, self._sent = of, before, act, sent or count()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if name in ("database", "client", "admin"):
            return Disturbed(found, self._before, self._act, self._sent)
        return self._disturbed(found) if callable(found) else found

    def _disturbed(self, command: Callable[..., Any]) -> Callable[..., Any]:
        def sent(*arguments: Any, **more: Any) -> Any:
            if next(self._sent) == self._before:
                self._act()
            return command(*arguments, **more)

        return sent


@pytest.fixture
def url(servers: Addresses) -> str:
    assert servers.mongodb
    return servers.mongodb


@pytest.fixture
def notes(url: str) -> Iterator[Any]:
    with blocking(url, "history") as database:
        was = set_to(database["settings"])
        yield database["settings"]
        database.client.admin.command({"setParameter": 1, WINDOW: was})
        database.client.drop_database("history")


def set_to(notes: Any) -> int:
    window_s: int = notes.database.client.admin.command({"getParameter": 1, WINDOW: 1})[WINDOW]
    return window_s


def me(notes: Any) -> str:
    found: str = notes.database.client.admin.command("hello")["me"]
    return found


def die() -> None:
    raise Killed


@pytest.mark.parametrize("before", range(COMMANDS))
def test_whoever_is_killed_a_later_one_sets_back(notes: Any, url: str, before: int) -> None:
    was = set_to(notes)
    with pytest.raises(Killed), history_kept(Disturbed(notes, before, die), 7_200, url):  # type: ignore[arg-type]
        assert set_to(notes) == 7_200
    notes.update_one({"_id": HISTORY}, {"$set": {"until": LONG_AGO}})
    with history_kept(notes, None, url):
        assert set_to(notes) == was
    assert notes.find_one({"_id": HISTORY}) is None


@pytest.mark.parametrize("before", range(COMMANDS))
@pytest.mark.parametrize("ends_first", [True, False])
def test_another_one_begins_meanwhile(notes: Any, url: str, before: int, ends_first: bool) -> None:
    was, other = set_to(notes), ExitStack()

    def begin() -> None:
        other.enter_context(history_kept(notes, 3_600, url))

    with other, history_kept(Disturbed(notes, before, begin), 7_200, url):  # type: ignore[arg-type]
        if ends_first:
            other.close()
    assert set_to(notes) == was
    assert notes.find_one({"_id": HISTORY}) is None


@pytest.mark.parametrize("before", range(COMMANDS - 1))  # who knows a window sends no question for it
def test_another_one_ends_meanwhile(notes: Any, url: str, before: int) -> None:
    was, other = set_to(notes), ExitStack()
    other.enter_context(history_kept(notes, 3_600, url))
    with history_kept(Disturbed(notes, before, other.close), 7_200, url):  # type: ignore[arg-type]
        pass
    other.close()
    assert set_to(notes) == was
    assert notes.find_one({"_id": HISTORY}) is None


@pytest.mark.parametrize("before", range(COMMANDS))
def test_another_one_is_killed_meanwhile(notes: Any, url: str, before: int) -> None:
    was = set_to(notes)
    with history_kept(notes, 3_600, url):
        with suppress(Killed), history_kept(Disturbed(notes, before, die), 7_200, url):  # type: ignore[arg-type]
            pass
        window = notes.find_one({"_id": HISTORY})
        assert window is None or window["was"] == was
    notes.update_one({"_id": HISTORY}, {"$set": {"until": LONG_AGO}})
    with history_kept(notes, None, url):
        assert set_to(notes) == was


@pytest.mark.parametrize("another", [False, True])
def test_who_may_not_set_a_window_leaves_a_note_only_where_another_one_needs_it(
    notes: Any, url: str, another: bool
) -> None:
    was = set_to(notes)
    with ExitStack() as other:

        def refuse() -> None:
            if another:
                other.enter_context(history_kept(notes, 3_600, url))
            raise OperationFailure("not authorized on admin to execute command", 13)

        disturbed: Any = Disturbed(notes, SETS, refuse)
        with pytest.raises(OperationFailure, match="not authorized"), history_kept(disturbed, 7_200, url):
            pass
        left = notes.find_one({"_id": HISTORY})
        assert (left and left["was"]) == (was if another else None)
    assert set_to(notes) == was
    assert notes.find_one({"_id": HISTORY}) is None


def test_a_note_of_which_this_user_may_do_nothing_fails_no_backup(
    notes: Any, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OperationFailure("not authorized on admin to execute command", 13)

    notes.insert_one({"_id": HISTORY, "was": 9, "at": me(notes), "until": LONG_AGO})
    with history_kept(Disturbed(notes, SETS_BACK, refuse), None, url):  # type: ignore[arg-type]
        [record] = caplog.records
        assert f"{WINDOW} as it needed it, and this user may not set it back to 9" in record.getMessage()
        assert notes.find_one({"_id": HISTORY}), "whoever may is still to set it back"
    with pytest.raises(OperationFailure), history_kept(Disturbed(notes, SETS_BACK, refuse), 7_200, url):  # type: ignore[arg-type]
        pass
    notes.delete_one({"_id": HISTORY})


def test_nothing_else_is_sent(notes: Any, url: str) -> None:
    """Or the tests above would miss a place."""
    with history_kept(Disturbed(notes, COMMANDS, die), 7_200, url):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("killed", [False, True])
def test_after_an_election_it_is_set_back_where_it_was_set(killed: bool) -> None:
    """By the backup that had set it, or by the next one; it is of no use to either where the primary is another one."""
    with TemporaryDirectory() as short, replica_set(Path(short)) as three, blocking(three.url, "history") as database:
        notes, was = database["settings"], set_to(database["settings"])
        old = address("mongodb", Path(me(notes)))
        raised = pytest.raises(Killed) if killed else pytest.raises(TooLong, match="was elected")
        dies = patch.object(whole, "_set_back", side_effect=Killed) if killed else nullcontext()
        with raised, dies, history_kept(notes, 7_200, three.url):
            database.client.admin.command({"replSetStepDown": 60})
            database["things"].insert_one({})  # at the next one, whom the client knows then
            raise TooLong("the snapshot is gone")
        with blocking(old, "history") as there:
            assert set_to(there["settings"]) == (7_200 if killed else was)
            with history_kept(notes, None, three.url):
                assert set_to(there["settings"]) == was
        assert set_to(notes) == was
        assert notes.find_one({"_id": HISTORY}) is None
