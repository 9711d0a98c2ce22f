"""Pages as JSON, remembered while nothing on them has changed: that is quicker than writing them again.

Before this, a page is checked for what may change on it (docs/correctness.md): a page whose statuses, likes or
judgement have changed is another list of statuses, and names have a version.
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
        """Return the page of this very list of statuses; None if it is not remembered.

        When anything on a page changes, it is another list.
        """
        page: Written | None = self._pages.get(reader)
        return page.json if page and page.statuses is statuses and page.names == names else None

    def keep(self, reader: ObjectId, statuses: Sequence[StatusRow], names: int | None, json: bytes) -> None:
        """Remember a page.

        `names`: their version, from before those on the page were looked up; None: remember nothing.
        """
        self._pages.pop(reader, None)
        if names is not None and len(json) <= REMEMBERED_BYTES:
            self._pages[reader] = Written(statuses, names, json)
