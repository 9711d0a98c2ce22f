"""How long MongoDB keeps snapshots is set for a backup and set back, whoever is killed, and whoever else is at it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from app.stack import Addresses
from app.stack.mongodb.whole import HISTORY, WINDOW, blocking, history_kept
from tests.dates import LONG_AGO

pytestmark = pytest.mark.servers

COMMANDS = 7  # of one that is not disturbed
SETS, SETS_BACK = 4, 2  # which of them sets the window; and one that was left, where there is a note of it


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
def notes(servers: Addresses) -> Iterator[Any]:
    assert servers.mongodb
    with blocking(servers.mongodb, "history") as database:
        was = set_to(database["settings"])
        yield database["settings"]
        database.client.admin.command({"setParameter": 1, WINDOW: was})
        database.client.drop_database("history")


def set_to(notes: Any) -> int:
    window_s: int = notes.database.client.admin.command({"getParameter": 1, WINDOW: 1})[WINDOW]
    return window_s


def die() -> None:
    raise Killed


@pytest.mark.parametrize("before", range(COMMANDS))
def test_whoever_is_killed_a_later_one_sets_back(notes: Any, before: int) -> None:
    was = set_to(notes)
    with pytest.raises(Killed), history_kept(Disturbed(notes, before, die), 7_200):  # type: ignore[arg-type]
        assert set_to(notes) == 7_200
    notes.update_one({"_id": HISTORY}, {"$set": {"until": LONG_AGO}})
    with history_kept(notes, None):
        assert set_to(notes) == was
    assert notes.find_one({"_id": HISTORY}) is None


@pytest.mark.parametrize("before", range(COMMANDS))
@pytest.mark.parametrize("ends_first", [True, False])
def test_another_one_begins_meanwhile(notes: Any, before: int, ends_first: bool) -> None:
    was, other = set_to(notes), ExitStack()

    def begin() -> None:
        other.enter_context(history_kept(notes, 3_600))

    with other, history_kept(Disturbed(notes, before, begin), 7_200):  # type: ignore[arg-type]
        if ends_first:
            other.close()
    assert set_to(notes) == was
    assert notes.find_one({"_id": HISTORY}) is None


@pytest.mark.parametrize("before", range(COMMANDS - 1))  # who knows a window sends no question for it
def test_another_one_ends_meanwhile(notes: Any, before: int) -> None:
    was, other = set_to(notes), ExitStack()
    other.enter_context(history_kept(notes, 3_600))
    with history_kept(Disturbed(notes, before, other.close), 7_200):  # type: ignore[arg-type]
        pass
    other.close()
    assert set_to(notes) == was
    assert notes.find_one({"_id": HISTORY}) is None


@pytest.mark.parametrize("before", range(COMMANDS))
def test_another_one_is_killed_meanwhile(notes: Any, before: int) -> None:
    was = set_to(notes)
    with history_kept(notes, 3_600):
        with suppress(Killed), history_kept(Disturbed(notes, before, die), 7_200):  # type: ignore[arg-type]
            pass
        window = notes.find_one({"_id": HISTORY})
        assert window is None or window["was"] == was
    notes.update_one({"_id": HISTORY}, {"$set": {"until": LONG_AGO}})
    with history_kept(notes, None):
        assert set_to(notes) == was


@pytest.mark.parametrize("another", [False, True])
def test_who_may_not_set_a_window_leaves_a_note_only_where_another_one_needs_it(notes: Any, another: bool) -> None:
    was = set_to(notes)
    with ExitStack() as other:

        def refuse() -> None:
            if another:
                other.enter_context(history_kept(notes, 3_600))
            raise OperationFailure("not authorized on admin to execute command", 13)

        disturbed: Any = Disturbed(notes, SETS, refuse)
        with pytest.raises(OperationFailure, match="not authorized"), history_kept(disturbed, 7_200):
            pass
        left = notes.find_one({"_id": HISTORY})
        assert (left and left["was"]) == (was if another else None)
    assert set_to(notes) == was
    assert notes.find_one({"_id": HISTORY}) is None


def test_a_note_of_which_this_user_may_do_nothing_fails_no_backup(notes: Any, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> None:
        raise OperationFailure("not authorized on admin to execute command", 13)

    notes.insert_one({"_id": HISTORY, "was": 9, "until": LONG_AGO})
    with history_kept(Disturbed(notes, SETS_BACK, refuse), None):  # type: ignore[arg-type]
        [record] = caplog.records
        assert f"{WINDOW} as it needed it, and this user may not set it back to 9" in record.getMessage()
        assert notes.find_one({"_id": HISTORY}), "whoever may is still to set it back"
    with pytest.raises(OperationFailure), history_kept(Disturbed(notes, SETS_BACK, refuse), 7_200):  # type: ignore[arg-type]
        pass
    notes.delete_one({"_id": HISTORY})


def test_nothing_else_is_sent(notes: Any) -> None:
    """Or the tests above would miss a place."""
    with history_kept(Disturbed(notes, COMMANDS, die), 7_200):  # type: ignore[arg-type]
        pass
