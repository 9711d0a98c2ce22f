"""Which shard key each collection would have, and a listener that sees which hot commands do not carry it.

Nothing here shards. A command that carries the key asks one shard, or those of its values; any other one asks all. What
is hot: whatever a request, a delivery or a notification does. Housekeeping every few seconds is not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, NamedTuple
from unittest.mock import patch

from pymongo import monitoring

from app.accounts import Accounts
from app.inbox.changes import Changes
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.notifications import Notifications
from app.inbox.notifier import Notifier
from app.inbox.pictures import Pictures
from app.names import Names
from app.social.people import People
from app.social.relations import Relations
from app.social.statuses import Statuses
from phases.delivering.backfills import Backfills
from phases.delivering.outbox import Outbox
from phases.delivering.switch import Switch
from phases.timelines import PhaseConsumer, Timelines

NOWHERE = ()  # it is not sharded
SHARD_KEYS: dict[str, tuple[str, ...]] = {
    "users": ("_id",),
    "tokens": ("digest",),
    "tickets": ("_id",),
    "statuses": ("user_id", "_id"),
    "likes": ("_id",),
    "follows": ("follower", "followee"),
    "circles": ("owner", "member"),
    "blocks": ("blocker", "blocked"),
    "mutes": ("muter", "muted"),
    "active_readers": ("_id",),
    "departures": NOWHERE,
    "heavy_authors": NOWHERE,
    "events": ("_id",),
    "notifications": ("whom",),
    "inboxes": ("_id",),
    "conversations": ("_id",),
    "messages": ("conversation",),
    "images": ("_id",),
    "settings": NOWHERE,
    "home_entries": ("_id",),
    "home_floors": ("_id",),
}


class Scattered(NamedTuple):
    """A hot command that asks every shard: its collection, what it asks by, and why that is bearable."""

    collection: str
    fields: tuple[str, ...]
    why: str


SCATTERED: tuple[Scattered, ...] = (
    Scattered("statuses", ("_id",), "statuses by id alone: lists hold bare ids, see below"),
    Scattered(
        "statuses", ("_id", "pending"), "a delivery's status, and its entry that is taken off: jobs carry bare ids"
    ),
    Scattered("statuses", ("_id", "deleted"), "a like is counted on a status that is named by its id"),
    Scattered(
        "statuses",
        ("pending",),
        "the newest pending of all, and by tags what of a page has changed, and versions: a few entries of an index "
        "from each shard",
    ),
    Scattered("follows", ("followee", "follower"), "a delivery's followers: every shard walks its own in parallel"),
    Scattered("follows", ("followee",), "how many followers somebody has, and who: their page and no other"),
    Scattered("circles", ("debt", "member"), "whose circles owe the reader a backfill: an index that is all but empty"),
    Scattered("active_readers", ("_id", "authors", "until"), "a delivery's active followers: each shard walks its own"),
    Scattered(
        "active_readers", ("authors", "until"), "how many active followers an author has: once a minute, bounded"
    ),
    Scattered("active_readers", (), "how many readers are active: a number that each shard knows"),
    Scattered("users", ("handle",), "mentions: handles need a small collection of their own then"),
    Scattered("users", ("deleted", "handle"), "sign-in, a profile: as above"),
    Scattered("users", ("$and", "deleted", "handle"), "a search: somebody types"),
    Scattered("tokens", ("user_id",), "the end of all tokens of an account, once in a while"),
    Scattered("conversations", ("gone", "people"), "the end of all conversations of an account, once: an index"),
    Scattered("follows", (), "whom to suggest: the newest few edges of all"),
    Scattered("users", (), "whom to suggest: the newest few accounts of all"),
    Scattered("conversations", ("pair",), "a block, noted in the conversation of the two: as with handles"),
    Scattered("conversations", ("listed",), "one's list: a few entries of an index from each shard"),
    Scattered("conversations", ("$or", "listed"), "the next page of it: as above"),
    Scattered("conversations", ("_id", "listed"), "an export, which goes by their ids: as above"),
    Scattered("conversations", ("silent", "unread"), "the badge: as above"),
    Scattered("conversations", ("told",), "what has changed for one person since a number of theirs: as above"),
    Scattered("messages", ("told",), "as above"),
    Scattered("conversations", ("unread",), "the badges of those who are told at once on live streams: as above"),
    Scattered("conversations", ("$or",), "what has changed for them: as for one person"),
    Scattered("messages", ("$or",), "as above"),
    Scattered("messages", ("_id",), "the last message of each conversation of a list: an index, one entry each"),
    Scattered(
        "users", ("renamed",), "who was renamed since: a sparse index, asked when the version of names has moved"
    ),
)

Seen = set[tuple[str, tuple[str, ...]]]
HOT: ContextVar[Seen | None] = ContextVar("hot", default=None)
USE_CASES = (
    *((People, name) for name in vars(People)),
    *((Relations, name) for name in vars(Relations)),
    *((Statuses, name) for name in vars(Statuses)),
    *((Accounts, name) for name in vars(Accounts)),
    *((Notifications, name) for name in vars(Notifications)),
    *((Conversations, name) for name in vars(Conversations)),
    *((Messages, name) for name in vars(Messages)),
    *((Changes, name) for name in vars(Changes)),
    *((Pictures, name) for name in vars(Pictures)),
    *((Names, name) for name in vars(Names)),
    *((Timelines, name) for name in ("page", "refresh")),
    *((PhaseConsumer, name) for name in ("hand_over", "inserted", "handle")),
    *((Notifier, name) for name in ("hand_over", "handle")),
)
HOUSEKEEPING = (
    *((Timelines, name) for name in ("sweep", "change", "state", "force")),
    *((Outbox, name) for name in ("oldest", "further_overdue", "sweep")),
    *((Backfills, name) for name in ("overdue", "sweep")),
    *((Switch, name) for name in ("beat", "change", "fresh")),
)


class Listener(monitoring.CommandListener):
    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if (seen := HOT.get()) is not None:
            seen.update(scattered(event.command_name, event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


def scattered(name: str, command: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(collection, fields) of what in the command carries no shard key."""
    for collection, query in _queries(name, command):
        key = SHARD_KEYS[_kind(collection)]
        if key and not _carries(query, key[0]):
            yield _kind(collection), tuple(sorted(query))


def _carries(query: Mapping[str, Any], field: str) -> bool:
    """MongoDB asks the shards of each branch of an `$or`, and all where one branch names none."""
    either = query.get("$or", ())
    return _names(query.get(field)) or (bool(either) and all(_carries(branch, field) for branch in either))


def _kind(collection: str) -> str:
    return "_".join(collection.split("_")[:2]) if collection.startswith("home_") else collection


def _queries(name: str, command: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    collection = command.get(name)
    match name:
        case "find":
            yield str(collection), command.get("filter", {})
        case "count" | "distinct" | "findAndModify":
            yield str(collection), command.get("query", {})
        case "update" | "delete":
            for part in command[f"{name}s"]:
                yield str(collection), part["q"]
        case "aggregate":
            yield from _of_pipeline(str(collection), command["pipeline"])


def _of_pipeline(collection: str, pipeline: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if pipeline and "$changeStream" in pipeline[0]:
        return
    first = pipeline[0] if pipeline else {}
    yield collection, first.get("$match", {})
    for stage in pipeline:
        if union := stage.get("$unionWith"):
            yield from _of_pipeline(union["coll"], union["pipeline"])


def _names(asked: Any) -> bool:
    """Whether the values are named, or a range that has two ends."""
    if not isinstance(asked, Mapping):
        return asked is not None
    return (
        "$in" in asked or "$eq" in asked or (bool({"$gt", "$gte"} & set(asked)) and bool({"$lt", "$lte"} & set(asked)))
    )


@contextmanager
def listening() -> Iterator[Seen]:
    """What the use cases send meanwhile without a shard key, on clients made since `Listener` was registered."""
    seen: Seen = set()

    def heard(call: Callable[..., Any], into: Seen | None) -> Callable[..., Any]:
        @wraps(call)
        async def inside(*args: Any, **options: Any) -> Any:
            before = HOT.set(into)
            try:
                return await call(*args, **options)
            finally:
                HOT.reset(before)

        return inside

    with ExitStack() as patches:
        for names, into in ((USE_CASES, seen), (HOUSEKEEPING, None)):
            for of, name in names:
                if iscoroutinefunction(call := vars(of)[name]):
                    patches.enter_context(patch.object(of, name, heard(call, into)))
        yield seen
