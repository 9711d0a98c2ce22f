"""What is pulled: asked for in groups of authors, the newest of each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bson import ObjectId

from app.clock import LAST_ID
from app.stack.mongodb.find import NEWEST_FIRST, Find

GROUP = 200  # one `$in` over more sorts all that they have written (jira DOCS-16663)

Query = Callable[[list[ObjectId]], Mapping[str, Any]]  # the pulled statuses of some authors


def look_for(
    query: Query,
    authors: Sequence[ObjectId],
    before: ObjectId,
    n: int,
) -> dict[str, Find]:
    """The newest `n` below `before` of each group: bounded, however many authors there
    are and however deep it is.
    """
    return {
        f"pulled {at}": Find(
            "statuses",
            {**query(list(authors[at : at + GROUP])), "_id": {"$lt": before}},
            ("_id", "user_id"),
            n,
            NEWEST_FIRST,
        )
        for at in range(0, len(authors), GROUP)
    }


def look_for_all(query: Query, authors: Sequence[ObjectId], n: int) -> dict[str, Find]:
    return look_for(query, authors, LAST_ID, n)
