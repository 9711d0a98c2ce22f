"""Pages as JSON, remembered while nothing on them has changed: that is quicker than writing them again.

The read has checked what may change on a page (docs/correctness.md), and says it by the list object: where a status, a
like or a judgement has changed, `Page.statuses` is another one. Names have a version.
"""

from collections.abc import Sequence
from typing import NamedTuple

from bson import ObjectId
from cachetools import LRUCache

from app.models import StatusRow

REMEMBERED_BYTES = 32 * 1024 * 1024  # of all readers together: about 5,000 pages of 20


class Written(NamedTuple):
    """A page as JSON. `names`: the version of the names on it."""

    statuses: Sequence[StatusRow]
    names: int
    json: bytes


class WrittenPages:
    """The page that each reader was shown last, in one process."""

    def __init__(self) -> None:
        self._pages: LRUCache[ObjectId, Written] = LRUCache(REMEMBERED_BYTES, getsizeof=lambda page: len(page.json))

    def recall(self, reader: ObjectId, statuses: Sequence[StatusRow], names: int | None) -> bytes | None:
        """Return the page of this very list object, as `Page` promises it; None if it is not remembered."""
        page: Written | None = self._pages.get(reader)
        return page.json if page and page.statuses is statuses and page.names == names else None

    def keep(self, reader: ObjectId, statuses: Sequence[StatusRow], names: int | None, json: bytes) -> None:
        """Remember a page.

        `names`: their version, from before those on the page were looked up; None: remember nothing.
        """
        self._pages.pop(reader, None)
        if names is not None and len(json) <= REMEMBERED_BYTES:
            self._pages[reader] = Written(statuses, names, json)
