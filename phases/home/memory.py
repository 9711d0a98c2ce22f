"""First pages as a process remembers them: the text of a status never changes, only whether it was deleted does."""

from collections.abc import Mapping

from bson import ObjectId
from cachetools import LRUCache

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


def deleted_among(page: Statuses) -> Find:
    return Find("statuses", {"_id": {"$in": list(page)}, "deleted": True}, ("_id",), len(page))


def without(deleted: Rows, page: Statuses) -> dict[ObjectId, StatusRow]:
    """The page, after the answer to `deleted_among`."""
    return {**page, **{row["_id"]: page[row["_id"]]._replace(audience=None) for row in deleted}}
