"""Pages as JSON, remembered while nothing on them has changed: to write one takes longer than to read it again.

What may change on a page is checked before (docs/correctness.md): a page whose statuses, likes or judgement have
changed is another list of statuses, and names have a version.
"""

from collections.abc import Sequence
from typing import NamedTuple

from bson import ObjectId
from cachetools import LRUCache

from app.models import StatusRow

REMEMBERED_BYTES = 32 * 1024 * 1024  # of all readers together: about 5,000 pages of 20


class Written(NamedTuple):
    """`names`: the version of the names on it."""

    statuses: Sequence[StatusRow]
    names: int
    json: bytes


class WrittenPages:
    """The page that each reader was shown last. One per process."""

    def __init__(self) -> None:
        self._pages: LRUCache[ObjectId, Written] = LRUCache(REMEMBERED_BYTES, getsizeof=lambda page: len(page.json))

    def recall(self, reader: ObjectId, statuses: Sequence[StatusRow], names: int | None) -> bytes | None:
        """Of just the same list: it is another one when anything on it is."""
        page: Written | None = self._pages.get(reader)
        return page.json if page and page.statuses is statuses and page.names == names else None

    def keep(self, reader: ObjectId, statuses: Sequence[StatusRow], names: int | None, json: bytes) -> None:
        """`names` that were looked up before those that are on it."""
        self._pages.pop(reader, None)
        if names is not None and len(json) <= REMEMBERED_BYTES:
            self._pages[reader] = Written(statuses, names, json)
