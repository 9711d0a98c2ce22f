"""A look-up as a value: neither Motor nor mongomock is needed to say what is looked for."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

Rows = list[dict[str, Any]]  # the answer to a look-up
Order = Sequence[tuple[str, int]]  # keys and directions
NEWEST_FIRST: Order = (("_id", -1),)
TAGS = "pending"  # a field with tags: look-ups that go by these alone become one `find`


@dataclass(frozen=True)
class Find:
    """A look-up. `fields` are those of the answer, or all of them; `_id` only if it is among them. `skip`: so many come
    before its first.

    `index`: the name of the one to use, where the planner would try several each time; only for a look-up of its own.
    `by`: the query goes by the values of this field, which is among the answer's, and each has one row at most.
    `common`: everybody asks the same. `along`: nobody else asks for it, but it is small enough to travel with others.
    `known`: ids that count for the limit and are left out of the answer, so that it is empty where all is known.
    `tags`: what it goes by alone, see `tagged`.
    """

    collection: str
    query: Mapping[str, Any]
    fields: tuple[str, ...]
    limit: int
    order: Order = ()
    index: str | None = None
    by: str | None = None
    skip: int = 0
    common: bool = False
    along: bool = False
    known: Sequence[Any] = ()
    tags: tuple[str, ...] = ()

    @classmethod
    def tagged(
        cls, collection: str, tags: Sequence[str], fields: tuple[str, ...], limit: int, order: Order = ()
    ) -> Self:
        """Return the look-up of what has one of these tags, in any order or the newest first. Its answer may have more
        than these fields.
        """
        query = {TAGS: tags[0] if len(tags) == 1 else {"$in": list(tags)}}
        return cls(collection, query, fields, limit, order, tags=tuple(tags))

    @property
    def may_be_shared(self) -> bool:
        """Whether it may travel with look-ups of other requests, because it is small for everybody."""
        return self.common or self.along or self.by is not None or bool(self.tags)

    def values(self) -> list[Any]:
        """Return the values of `by` that are asked for, as they are in the answers."""
        wanted = self.query[str(self.by)]
        values = wanted["$in"] if isinstance(wanted, Mapping) else [wanted]
        return [bytes(value) if isinstance(value, bytes) else value for value in values]  # no `Binary`: it equals none

    def projection(self) -> dict[str, int]:
        return {"_id": 0, **dict.fromkeys(self.fields, 1)} if self.fields else {}

    def command(self) -> dict[str, Any]:
        """Return the command that answers this look-up alone, in one batch."""
        command = {
            "find": self.collection,
            "filter": self.query,
            "limit": self.limit,
            "batchSize": self.limit + 1,
        }
        beside = {
            "projection": self.projection(),
            "sort": dict(self.order),
            "skip": self.skip,
            "hint": self.index,
        }
        return command | {name: value for name, value in beside.items() if value}

    def stages(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the stages that answer this look-up among others. Its rows have the `name`, if one is given, as their
        `part`.
        """
        sort: list[dict[str, Any]] = [{"$sort": dict(self.order)}] if self.order else []
        skip = [{"$skip": self.skip}] if self.skip else []
        # Behind the limit, where it is compared: in the query, the index would be sought anew around each of them.
        unknown = [{"$match": {"_id": {"$nin": self.known}}}] if self.known else []
        part = {"part": {"$literal": name}} if name else {}
        shown = [{"$project": self.projection() | part}] if self.fields else [{"$set": part}] if part else []
        return [{"$match": self.query}, *sort, *skip, {"$limit": self.limit}, *unknown, *shown]

    def unknown(self, rows: Rows) -> Rows:
        """Return those rows of a plain `find` that are not known."""
        return [row for row in rows if row["_id"] not in self.known] if self.known else rows


Answer = Callable[[Mapping[str, Find]], Awaitable[dict[str, Rows]]]  # one command
