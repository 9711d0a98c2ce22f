"""First pages as a process remembers them: the text of a status never changes. Whether it was deleted, and who likes
it, is looked up each time.
"""

from collections.abc import Mapping

from bson import ObjectId
from cachetools import LRUCache

from app.access import liked_among
from app.models import StatusRow
from app.stack.mongodb.find import Find, Rows

ROWS_REMEMBERED = 100_000  # statuses of all readers together, about 500 bytes each

Statuses = Mapping[ObjectId, StatusRow]


class FirstPages:
    """The statuses that it took to fill a reader's first page the last time."""

    def __init__(self) -> None:
        self._pages: LRUCache[ObjectId, Statuses] = LRUCache(ROWS_REMEMBERED, getsizeof=len)

    def recall(self, reader: ObjectId) -> Statuses:
        page: Statuses = self._pages.get(reader) or {}
        return page

    def keep(self, reader: ObjectId, page: Statuses) -> None:
        self._pages[reader] = page


def changes_of(page: Statuses, reader: ObjectId) -> dict[str, Find]:
    """What may have changed since it was remembered: only of what is deleted or liked there is something to say."""
    ids = list(page)
    changed = {"_id": {"$in": ids}, "$or": [{"deleted": True}, {"likes": {"$gt": 0}}]}
    return {
        "changed": Find("statuses", changed, ("_id", "deleted", "likes"), len(ids)),
        "liked": liked_among(reader, ids),
    }


def as_now(page: Statuses, answers: Mapping[str, Rows]) -> dict[ObjectId, StatusRow]:
    """The page, after the answers to `changes_of`."""
    rows = dict(page)
    for row in page.values():
        if row.likes or row.you_like:  # then
            rows[row.id] = row._replace(likes=0, you_like=False)
    for now in answers["changed"]:
        row = rows[now["_id"]]
        rows[row.id] = row._replace(audience=None) if now["deleted"] else row._replace(likes=now["likes"])
    for like in answers["liked"]:
        row = rows[ObjectId(like["_id"][12:])]
        rows[row.id] = row._replace(you_like=True)
    return rows
