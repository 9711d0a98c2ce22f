"""A look-up as a value: neither Motor nor mongomock is needed to say what is looked for."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = list[dict[str, Any]]  # the answer to a look-up
Order = Sequence[tuple[str, int]]  # keys and directions
NEWEST_FIRST: Order = (("_id", -1),)


@dataclass(frozen=True)
class Find:
    """A look-up. `fields` are those of the answer; `_id` only if it is among them. `skip`: so many come before its
    first.

    `index`: the name of the one to use, where the planner would try several each time; only for a look-up of its own.
    `by`: the query goes by the values of this field, which is among the answer's, and each has one row at most.
    `common`: everybody asks the same. `along`: nobody else asks for it, but it is small enough to travel with others.
    `known`: ids that count for the limit and are left out of the answer, so that it is empty where all is known.
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

    @property
    def may_be_shared(self) -> bool:
        """Whether it may travel with look-ups of other requests, because it is small for everybody."""
        return self.common or self.along or self.by is not None

    def values(self) -> list[Any]:
        """Return the values of `by` that are asked for, as they are in the answers."""
        wanted = self.query[str(self.by)]
        values = wanted["$in"] if isinstance(wanted, Mapping) else [wanted]
        return [bytes(value) if isinstance(value, bytes) else value for value in values]  # no `Binary`: it equals none

    def projection(self) -> dict[str, int]:
        return {"_id": 0, **dict.fromkeys(self.fields, 1)}

    def command(self) -> dict[str, Any]:
        """Return the command that answers this look-up alone, in one batch."""
        command = {
            "find": self.collection,
            "filter": self.query,
            "projection": self.projection(),
            "limit": self.limit,
            "batchSize": self.limit + 1,
        }
        beside = {"sort": dict(self.order), "skip": self.skip, "hint": self.index}
        return command | {name: value for name, value in beside.items() if value}

    def stages(self, name: str) -> list[dict[str, Any]]:
        sort: list[dict[str, Any]] = [{"$sort": dict(self.order)}] if self.order else []
        tagged = {**self.projection(), "part": {"$literal": name}}
        skip = [{"$skip": self.skip}] if self.skip else []
        # Behind the limit, where it is compared: in the query, the index would be sought anew around each of them.
        unknown = [{"$match": {"_id": {"$nin": self.known}}}] if self.known else []
        return [{"$match": self.query}, *sort, *skip, {"$limit": self.limit}, *unknown, {"$project": tagged}]

    def unknown(self, rows: Rows) -> Rows:
        """Return those rows of a plain `find` that are not known."""
        return [row for row in rows if row["_id"] not in self.known] if self.known else rows


Answer = Callable[[Mapping[str, Find]], Awaitable[dict[str, Rows]]]  # one command
