"""A look-up as a value: neither Motor nor mongomock is needed to say what is looked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = list[dict[str, Any]]  # the answer to a look-up
Order = Sequence[tuple[str, int]]  # keys and directions
NEWEST_FIRST: Order = (("_id", -1),)


@dataclass(frozen=True)
class Find:
    """One look-up. `fields` are those of the answer; `_id` only if it is among them.

    Only for a look-up of its own: `index`, the name of the one to use, where the planner would try several each time.
    """

    collection: str
    query: Mapping[str, Any]
    fields: tuple[str, ...]
    limit: int
    order: Order = ()
    index: str | None = None

    def projection(self) -> dict[str, int]:
        return {"_id": 0, **dict.fromkeys(self.fields, 1)}

    def stages(self, name: str) -> list[dict[str, Any]]:
        sort: list[dict[str, Any]] = [{"$sort": dict(self.order)}] if self.order else []
        tagged = {**self.projection(), "part": {"$literal": name}}
        return [{"$match": self.query}, *sort, {"$limit": self.limit}, {"$project": tagged}]
