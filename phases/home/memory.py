"""First pages as a process remembers them. The text of a status never changes. Whether it was deleted, and by how many
it is liked, is looked up each time. What the reader likes has a version.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from bson import ObjectId
from cachetools import LRUCache

from app.access import changed_among
from app.edges import Version
from app.models import StatusRow
from app.same import IDS
from app.stack.mongodb.find import Find, Rows
from phases.home.candidates import NOTHING, Slice, Undelivered

ROWS_REMEMBERED = 100_000  # statuses of all readers together, and one for each reader, about 500 bytes each
ROWS_SHARED = 20_000  # statuses, about 10 MB; where there are more it begins anew

Statuses = Mapping[ObjectId, StatusRow]


class Basis(NamedTuple):
    """The basis of a page, beside the statuses and who follows back. `edges`: the version of the reader's edges.
    `departed`: the accounts that are deleted.
    """

    candidates: bytes
    floor: ObjectId
    limit: int
    edges: Version
    departed: frozenset[ObjectId]


class MadeOf(NamedTuple):
    """What a page is made of. `first`: its candidates, down to where others have to be looked up. `kept`: what of that
    is kept. `waiting`: what of it is from a backlog, where one was read.
    """

    first: Slice
    kept: Slice = NOTHING
    waiting: Undelivered | None = None

    def is_from(self, kept: Slice, waiting: Undelivered | None) -> bool:
        """Return whether the same is kept and waits."""
        return kept.has_the_same(self.kept) and waiting == self.waiting


class Judged(NamedTuple):
    """A page that was judged. `backs`: whether the authors of statuses for mutuals followed the reader; that has no
    version. `shown`: the list that the page had, and has again (`Page.statuses`).
    """

    basis: Basis
    made_of: MadeOf
    backs: Mapping[ObjectId, bool]
    shown: list[StatusRow]
    next: ObjectId | None

    def followed_by(self) -> set[ObjectId]:
        return {author for author, follows in self.backs.items() if follows}


@dataclass(frozen=True)
class FirstPage:
    """A reader's first page as it is remembered: the statuses that it took to fill it.

    `likes`: the version of what the reader likes, as it was before `you_like` of these statuses was looked up.
    `judged`: the page; None where something was asked that its basis does not cover.
    """

    statuses: Statuses
    likes: int
    judged: Judged | None = None

    def size(self) -> int:
        return 1 + len(self.statuses)

    @cached_property
    def changes(self) -> dict[str, Find]:
        return changes_of(self.statuses)

    def full(self, n: int) -> Judged | None:
        """Return the page if it was made of `n` candidates and was not the last one; None where that is not known."""
        if self.judged is None or self.judged.next is None or len(self.judged.made_of.first.entries) != n:
            return None
        return self.judged

    def follow_back(self, reader: ObjectId) -> dict[str, Find]:
        """Return the look-up of who follows back, of those whose following decided about the page."""
        if self.judged is None or not self.judged.backs:
            return {}
        of = {"follower": {"$in": list(self.judged.backs)}, "followee": reader}
        return {"backs": Find("follows", of, ("follower",), len(self.judged.backs), by="follower")}

    def judged_before(self, basis: Basis, now: Statuses, answers: Mapping[str, Rows]) -> Judged | None:
        """Return the page that was judged on the same basis, which need not be judged again; None where anything
        differs. `now`: what `as_now` has made of `answers` to `changes_of` and `follow_back`.
        """
        judged = self.judged
        if judged is None or judged.basis != basis or now is not self.statuses:
            return None
        backs = {row["follower"] for row in answers.get("backs", ())}
        return judged if backs == judged.followed_by() else None


UNSEEN = FirstPage({}, 0)


class FirstPages:
    """The first pages that a process remembers: for each reader, the statuses that it took to fill theirs the last
    time.
    """

    def __init__(self) -> None:
        self._pages: LRUCache[ObjectId, FirstPage] = LRUCache(ROWS_REMEMBERED, getsizeof=FirstPage.size)

    def recall(self, reader: ObjectId) -> FirstPage:
        return self._pages.get(reader, UNSEEN)

    def keep(self, reader: ObjectId, seen: FirstPage) -> None:
        self._pages[reader] = seen

    def guess_no_more(self, reader: ObjectId) -> None:
        """Forget how far the reader's page reached: it says nothing about the next one."""
        self.keep(reader, replace(self.recall(reader), judged=None))

    def forget(self, reader: ObjectId) -> None:
        self._pages.pop(reader, None)


class SeenStatuses:
    """The statuses that were looked up last. Thousands of readers have the same ones on their pages, and share them.
    Who has written a status, for whom, and its text never change; what may have changed is looked up.
    """

    def __init__(self) -> None:
        self._rows: dict[bytes, StatusRow] = {}  # remembered; bytes compare without a call of Python

    def row(self, found: Mapping[str, Any]) -> StatusRow:
        """Return the status of a document, the shared one where it is the same. Whether the reader likes it is not in
        it.
        """
        id = found["_id"].binary
        row = self._rows.get(id)
        if row is None or not _is_as_found(row, found):
            if len(self._rows) >= ROWS_SHARED:
                self._rows.clear()
            row = self._rows[id] = StatusRow.of(found)._replace(user_id=IDS.of(found["user_id"]))
        return row

    def among(self, ids: Iterable[ObjectId]) -> Statuses:
        """Return those of these statuses that are known, as they were when they were looked up."""
        return {id: row for id in ids if (row := self._rows.get(id.binary))}


def _is_as_found(row: StatusRow, found: Mapping[str, Any]) -> bool:
    now = found["user_id"].binary, found["text"], found.get("audience"), found.get("likes", 0)
    return now == (row.user_id.binary, row.text, row.audience, row.likes)


def changes_of(page: Statuses) -> dict[str, Find]:
    """Return the look-up of what has changed of these statuses: only what is deleted or liked can have changed."""
    if not page:
        return {}
    return {"changed": changed_among(list(page), ("_id", "deleted", "likes"))}


def as_now(page: Statuses, answers: Mapping[str, Rows]) -> Statuses:
    """Return the page after the answers to `changes_of`; the same object where nothing has changed."""
    rows: dict[ObjectId, StatusRow] = {}
    for now in answers.get("changed", ()):
        row = page[now["_id"]]
        rows[row.id] = row._replace(audience=None, likes=0) if now["deleted"] else row._replace(likes=now["likes"])
    changed = {id: row for id, row in rows.items() if row != page[id]}
    return {**page, **changed} if changed else page
