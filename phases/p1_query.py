"""Phase 1: ask the database on every read.

A post is one insert and nothing else happens. A read asks for the statuses of everybody
the reader follows.
Posting is as cheap as it gets, and nothing is kept that could be wrong.
Every read repeats the work, however little is new.
"""

from bson import ObjectId

from app.access import Entry
from app.edges import Following
from app.stack.mongodb.connection import Database
from phases.base import Phase
from phases.claims import FOLLOWEES, INSERT, QUERY_OF_ALL, VISIBLE, post, read
from phases.home.newest import ID_AND_AUTHOR, Newest


def statuses_by(
    db: Database,
    authors: list[ObjectId],
    fields: tuple[str, ...] = ID_AND_AUTHOR,
) -> Newest:
    """Return the article's query for the statuses of some authors. `Newest` sorts and
    limits it, and above 200 authors cuts its `$in` into pieces.
    """
    return Newest(db, lambda some: {"user_id": {"$in": some}}, authors, fields)


class HomeTimeline:
    """The candidates for a reader's home timeline: the statuses of everybody they
    follow and do not mute, and their own.
    """

    def __init__(self, db: Database, reader: ObjectId, following: Following) -> None:
        self.db, self.reader, self.following = db, reader, following

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        following_ids = await self.following.unmuted()  # without those they mute
        theirs = statuses_by(self.db, [self.reader, *following_ids])
        return await theirs.older_than(cursor, n)


QUERY = Phase(
    slug="query",
    title="Ask on every read",
    poster_waits="one insert",
    reader_waits="the query",
    kept="nothing",
    pulls=HomeTimeline,
    costs=(
        post(INSERT),
        read(FOLLOWEES, QUERY_OF_ALL, VISIBLE),
    ),
)
