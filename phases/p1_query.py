"""Phase 1: ask the database on every read.

A post is one insert and nothing else happens. A read asks for the statuses of everybody
the reader follows.
Posting is as cheap as it gets, and nothing is kept that could be wrong.
Every read repeats the work, however little is new.
"""

from collections.abc import Mapping
from typing import Any

from bson import ObjectId

from app.access import Entry
from app.edges import Following
from app.stack.mongodb.connection import Database
from phases.base import Phase
from phases.claims import FOLLOWEES, INSERT, QUERY_OF_ALL, VISIBLE, a_page, a_post
from phases.home.newest import Newest


def written_by(authors: list[ObjectId]) -> Mapping[str, Any]:
    """Return the article's query: the statuses of some authors."""
    return {"user_id": {"$in": authors}}


class HomeTimeline:
    """The candidates for a reader's home timeline: the statuses of everybody they
    follow and do not mute, and their own. A read asks for these where nothing is kept.
    """

    def __init__(self, db: Database, reader: ObjectId, following: Following) -> None:
        self.db, self.reader, self.following = db, reader, following

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        following_ids = await self.following.unmuted()  # without those they mute
        authors = [self.reader, *following_ids]
        # `Newest` sorts and limits the query, and cuts a long $in into pieces.
        newest = Newest(self.db, written_by, authors)
        return await newest.older_than(cursor, n)


QUERY = Phase(
    slug="query",
    title="Ask on every read",
    poster_waits="one insert",
    reader_waits="the query",
    kept_where="nothing",
    costs=(
        a_post(INSERT),
        a_page(FOLLOWEES, QUERY_OF_ALL, VISIBLE),
    ),
)
