"""Workloads: what people do, as data, and the seeded sequence of operations that it becomes.

A workload is a TOML file of `benchmarks/workloads/` or of the user. Its first four lines are YCSB's header (name,
example, mix, distribution) and a fifth says which phase loses on it, and why.
"""

import tomllib
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from pathlib import Path
from random import Random
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.demo.graph import Graph
from app.demo.words import sentence
from app.errors import Refused
from app.models import Audience

T = TypeVar("T")

FOLDER = Path(__file__).parent / "workloads"
ZIPF_EXPONENT = 0.99  # YCSB's
MUTUALS_SHARE = 0.05  # of the statuses
MAX_FILE = 64 * 1024  # bytes

Kind = Literal["read", "older", "post", "delete", "follow", "unfollow", "block"]
Share = Annotated[float, Field(ge=0, le=1)]
Distribution = Literal["uniform", "zipf", "followers", "once"]


class WorkloadError(Refused):
    """There is no such workload, or its file is wrong; the text names the file and every wrong field."""


class Mix(BaseModel):
    """Shares of the operations; they sum up to 1. `older`: the page after the first one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: Share = 0
    older: Share = 0
    post: Share = 0
    delete: Share = 0
    follow: Share = 0
    unfollow: Share = 0
    block: Share = 0

    @model_validator(mode="after")
    def sums_up(self) -> Self:
        total = sum(self.shares())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares sum up to {total:g}, not to 1")
        return self

    def shares(self) -> list[float]:
        return [getattr(self, kind) for kind in KINDS]


KINDS: tuple[Kind, ...] = ("read", "older", "post", "delete", "follow", "unfollow", "block")


class Workload(BaseModel):
    """One workload.

    `authors`, `readers`: how they are drawn: `uniform`; `zipf` (exponent 0.99 over shuffled people); `followers` (in
    proportion to their followers); `once` (everybody in turn, in shuffled order).
    `active`: share of the people who ever read. `returning`: they were here yesterday and what expires has expired.
    `history`: statuses per person from before the run. `limit`: statuses on a page.
    `celebrities`: people added whom everybody follows; they write `celebrity_posts` of the posts.
    `wide_readers`: people added who follow `wide_followees` others each (at most everybody); only they read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    example: str = Field(min_length=1, max_length=300)
    mix_says: str = Field(alias="mix", min_length=1, max_length=300)
    distribution: str = Field(min_length=1, max_length=300)
    loses_here: str = Field(min_length=1, max_length=500)

    operations: Mix
    authors: Distribution = "zipf"
    readers: Distribution = "zipf"
    active: float = Field(default=1, gt=0, le=1)
    returning: bool = False
    history: float = Field(default=10, ge=0, le=1_000)
    limit: int = Field(default=20, ge=1, le=100)
    celebrities: int = Field(default=0, ge=0, le=100)
    celebrity_posts: Share = 0
    wide_readers: int = Field(default=0, ge=0, le=1_000)
    wide_followees: int = Field(default=0, ge=0, le=10_000)

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if bool(self.celebrities) != bool(self.celebrity_posts):
            raise ValueError("celebrities and celebrity_posts go together")
        if bool(self.wide_readers) != bool(self.wide_followees):
            raise ValueError("wide_readers and wide_followees go together")
        return self


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name_or_file: str) -> Workload:
    """A workload of ours by name, or the user's own from a TOML file. Raises WorkloadError."""
    ours = name_or_file in names()
    path = FOLDER / f"{name_or_file}.toml" if ours else Path(name_or_file)
    if not ours and path.suffix != ".toml":
        raise WorkloadError(f"no workload {name_or_file!r}: there are {', '.join(names())}, or name a .toml file")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
        if len(raw) > MAX_FILE:
            raise WorkloadError(f"{path}: larger than {MAX_FILE:,} bytes")
        return Workload.model_validate(tomllib.loads(raw.decode()))
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: not a TOML file: {error}") from None
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc'])) or 'workload'}: {e['msg']}" for e in error.errors())
        raise WorkloadError(f"{path}: {'; '.join(wrong)}") from None


def populated(graph: Graph, workload: Workload, seed: int) -> Graph:
    """The graph with the celebrities and the wide readers that the workload adds, at its end."""
    if not workload.celebrities and not workload.wide_readers:
        return graph
    draw = Random(f"{seed} populated").random
    people, followers, followees = list(graph.people), graph.followers[:], graph.followees[:]
    ordinary = len(people)
    for number in range(workload.celebrities):
        people.append(f"celebrity_{number}")
        followers.extend(range(ordinary))
        followees.extend([len(people) - 1] * ordinary)
    for number in range(workload.wide_readers):
        people.append(f"wide_{number}")
        chosen = _sample(ordinary, min(workload.wide_followees, ordinary), draw)
        followers.extend([len(people) - 1] * len(chosen))
        followees.extend(chosen)
    return Graph(tuple(people), followers, followees)


def _sample(of: int, count: int, draw: Callable[[], float]) -> list[int]:
    items = list(range(of))
    for place in range(count):
        other = place + int(draw() * (of - place))
        items[place], items[other] = items[other], items[place]
    return items[:count]


@dataclass(frozen=True, slots=True)
class Operation:
    """`who` does it, people are numbers of the graph. `other`: whom it is done to. `target`: the number of the
    operation that posted the status to delete."""

    number: int
    kind: Kind
    who: int
    other: int | None = None
    target: int | None = None
    text: str = ""
    audience: Audience = "followers"


class Cast:
    """Who reads and who posts, drawn from a seed."""

    def __init__(self, workload: Workload, graph: Graph, seed: int) -> None:
        draw = Random(f"{seed} {workload.name} cast").random
        people = len(graph.people)
        ordinary = people - workload.celebrities - workload.wide_readers
        self._popularity = [1] * people
        for followee in graph.followees:
            self._popularity[followee] += 1
        self.celebrities = list(range(ordinary, ordinary + workload.celebrities))
        if workload.wide_readers:
            self.readers = list(range(people - workload.wide_readers, people))
        else:
            self.readers = _sample(ordinary, max(1, round(workload.active * ordinary)), draw)
        self.authors = _sample(ordinary, ordinary, draw)
        self.reader = self._drawn(workload.readers, self.readers)
        self.author = self._drawn(workload.authors, self.authors)
        self.active = set(self.readers)

    def _drawn(self, distribution: Distribution, people: Sequence[int]) -> Callable[[float], int]:
        if distribution == "once":
            turns = cycle(people)
            return lambda _: next(turns)
        if distribution == "uniform":
            return lambda number: people[int(number * len(people))]
        weights = [
            self._popularity[person] if distribution == "followers" else 1 / place**ZIPF_EXPONENT
            for place, person in enumerate(people, 1)
        ]
        sums = list(accumulate(weights))
        return lambda number: people[min(bisect(sums, number * sums[-1]), len(people) - 1)]


class Operations(Iterator[Operation]):
    """The endless sequence of operations: the same for the same workload, graph and seed, whatever runs it.

    It knows who follows whom while it goes on, so that every unfollow ends a follow that exists. What cannot be
    done (nothing to delete, nobody to unfollow) becomes a post.
    """

    def __init__(self, workload: Workload, graph: Graph, seed: int) -> None:
        self._workload = workload
        self._draw = Random(f"{seed} {workload.name} operations").random
        self._cast = Cast(workload, graph, seed)
        self._people = len(graph.people)
        self._shares = list(accumulate(workload.operations.shares()))
        self._following: list[list[int]] = [[] for _ in graph.people]
        for follower, followee in graph.follows():
            self._following[follower].append(followee)
        self._blocked: set[frozenset[int]] = set()
        self._posted: list[tuple[int, int]] = []  # number of the operation, author
        self._number = 0

    def __next__(self) -> Operation:
        kind = KINDS[min(bisect(self._shares, self._draw() * self._shares[-1]), len(KINDS) - 1)]
        operation = self._made(kind) or self._post()
        self._number += 1
        return operation

    def _made(self, kind: Kind) -> Operation | None:
        match kind:
            case "read" | "older":
                return Operation(self._number, kind, self._cast.reader(self._draw()))
            case "post":
                return self._post()
            case "delete":
                return self._delete()
            case "follow":
                return self._follow(self._cast.reader(self._draw()))
            case "unfollow":
                return self._unfollow(self._cast.reader(self._draw()))
            case "block":
                return self._block(self._cast.reader(self._draw()))

    def _post(self) -> Operation:
        celebrity = self._cast.celebrities and self._draw() < self._workload.celebrity_posts
        number = self._draw()
        author = self._cast.celebrities[int(number * len(self._cast.celebrities))] if celebrity else None
        who = self._cast.author(number) if author is None else author
        audience: Audience = "mutuals" if self._draw() < MUTUALS_SHARE else "followers"
        self._posted.append((self._number, who))
        return Operation(self._number, "post", who, text=sentence(self._draw), audience=audience)

    def _delete(self) -> Operation | None:
        if not self._posted:
            return None
        target, author = self._taken(self._posted)
        return Operation(self._number, "delete", author, target=target)

    def _taken(self, items: list[T]) -> T:
        place = int(self._draw() * len(items))
        items[place], items[-1] = items[-1], items[place]
        return items.pop()

    def _follow(self, who: int) -> Operation | None:
        other = int(self._draw() * self._people)
        if other == who or other in self._following[who] or frozenset((who, other)) in self._blocked:
            return None
        self._following[who].append(other)
        return Operation(self._number, "follow", who, other)

    def _unfollow(self, who: int) -> Operation | None:
        if not self._following[who]:
            return None
        return Operation(self._number, "unfollow", who, self._taken(self._following[who]))

    def _block(self, who: int) -> Operation | None:
        if not self._following[who]:
            return None
        other = self._taken(self._following[who])
        self._blocked.add(frozenset((who, other)))
        if who in self._following[other]:
            self._following[other].remove(who)
        return Operation(self._number, "block", who, other)
