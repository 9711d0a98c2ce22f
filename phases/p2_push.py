"""Phase 2: deliver instead of asking.

After a status is created, its id is put on the home timeline of every follower, and the
poster waits for that.
A read is now two look-ups by key, the reader's own timeline and the statuses by id,
however many people they follow.
A post now costs one entry for each follower, whether they read it or not. A celebrity
waits longest.
"""

from collections.abc import Sequence

from bson import ObjectId

from app.clock import FIRST_ID
from app.models import StatusRow
from app.stack.mongodb.find import Find, rows
from phases.base import Carrier, Phase
from phases.claims import ENTRIES, ENTRIES_AND_PENDING, INSERT_AND_CLEAR, VISIBLE_UNSEEN, a_page, a_post
from phases.delivering.delivery import Delivery
from phases.keeping.entries import Entries
from phases.keeping.recipients import Recipients
from phases.keeping.store import Container


class Followers(Recipients):
    """The recipients are the author's followers, from an index alone. The read decides
    who may see a status: the article's `access_allow?`.
    """

    name = "followers"

    async def of(self, author: ObjectId, after: ObjectId, n: int) -> list[ObjectId]:
        query = {"followee": author, "follower": {"$gt": after}}
        order, index = [("follower", 1)], "followee_1_follower_1"
        find = Find("follows", query, ("follower",), n, order, index)
        return [row["follower"] for row in await rows(self.db, find)]


class HomeEntries(Entries):
    """A timeline is many small documents, one for each entry. The key is the reader and
    the status, and the collection is stored in the order of its keys.
    """

    async def deliver(
        self,
        container: Container,
        status: StatusRow,
        to: Sequence[ObjectId],
    ) -> None:
        """Put the id on many timelines, with one command."""
        tail, author = status.id.binary, status.user_id
        entries = [{"_id": reader.binary + tail, "a": author} for reader in to]
        await self.insert(container, entries)


async def deliver_status(delivery: Delivery, status: StatusRow) -> None:
    """Walk through the author's followers while the poster waits: the article's hook
    `after_create`. The insert has said that the delivery is `pending`; `done` clears
    that. Phase 3 says why.
    """
    after = await put_on_timelines(delivery, status, None)
    while after:
        after = await put_on_timelines(delivery, status, after)
    await delivery.done(status.id)


async def put_on_timelines(
    delivery: Delivery,
    status: StatusRow,
    after: ObjectId | None,
) -> ObjectId | None:
    """Make one bounded step of the walk: put the status's id on the home timelines of
    the next followers, and in the first step on the author's. Return the last follower
    reached, or None at the end.
    """
    followers, more = await delivery.recipients(status, after or FIRST_ID)
    author = [] if after else [status.user_id]
    await delivery.put(status, author + followers)
    return followers[-1] if more else None


POSTER = Carrier(deliver_status, in_worker=False)

PUSH = Phase(
    slug="push",
    title="Deliver to every follower",
    poster_waits="the whole fan-out",
    reader_waits="their list, then the statuses by id",
    kept_where="entries in MongoDB",
    store=HomeEntries,
    recipients=Followers,
    carrier=POSTER,
    chunk=lambda config: config.inline_chunk,
    costs=(
        a_post(INSERT_AND_CLEAR, ENTRIES),
        a_page(ENTRIES_AND_PENDING, VISIBLE_UNSEEN),
    ),
)
