"""Workloads: what people do, as data, and the seeded sequence of operations that it becomes.

A workload is a TOML file of `benchmarks/workloads/` or of the user. Its first four lines are YCSB's header (name,
example, mix, distribution) and a fifth says which phase loses on it, and why.
"""

import tomllib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, cycle
from pathlib import Path
from random import Random
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

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
Draw = Callable[[Random], int]


class WorkloadError(Refused):
    """The workload does not exist, or its file is wrong; the text names the file and every wrong field."""


class Workload(BaseModel):
    """One workload.

    `operations`: shares that sum up to 1; `older` is the page after the first one.
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

    operations: dict[Kind, Share]
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

    @field_validator("operations")
    @classmethod
    def sums_up(cls, operations: dict[Kind, Share]) -> dict[Kind, Share]:
        total = sum(operations.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares sum up to {total:g}, not to 1")
        return operations

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
    """Return a workload of ours by name, or the user's own from a TOML file. Raises WorkloadError."""
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
    """Return the graph with the celebrities and the wide readers that the workload adds, at its end."""
    random = Random(f"{seed} populated")
    people, followers, followees = list(graph.people), graph.followers[:], graph.followees[:]
    ordinary = len(people)
    for number in range(workload.celebrities):
        people.append(f"celebrity_{number}")
        followers.extend(range(ordinary))
        followees.extend([len(people) - 1] * ordinary)
    for number in range(workload.wide_readers):
        people.append(f"wide_{number}")
        chosen = random.sample(range(ordinary), min(workload.wide_followees, ordinary))
        followers.extend([len(people) - 1] * len(chosen))
        followees.extend(chosen)
    return Graph(tuple(people), followers, followees)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation. `who` does it, `other` has it done to them; people are numbers of the graph.

    `target`: the number of the operation that posted the status to delete.
    """

    number: int
    kind: Kind
    who: int
    other: int | None = None
    target: int | None = None
    text: str = ""
    audience: Audience = "followers"


class Cast:
    """The people who read and who post, drawn from a seed."""

    def __init__(self, workload: Workload, graph: Graph, seed: int) -> None:
        random = Random(f"{seed} {workload.name} cast")
        people = len(graph.people)
        ordinary = people - workload.celebrities - workload.wide_readers
        self._graph = graph
        self.celebrities = range(ordinary, ordinary + workload.celebrities)
        if workload.wide_readers:
            self.readers: Sequence[int] = range(people - workload.wide_readers, people)
        else:
            self.readers = array("I", random.sample(range(ordinary), max(1, round(workload.active * ordinary))))
        self.reader = self._drawn(workload.readers, self.readers)
        self.author = self._drawn(workload.authors, array("I", random.sample(range(ordinary), ordinary)))

    def _drawn(self, distribution: Distribution, people: Sequence[int]) -> Callable[[], Draw]:
        """Return a way to draw people. Each call of what it returns begins the draws anew."""
        if distribution == "once":
            return lambda: _in_turn(people)
        if distribution == "uniform":
            return lambda: lambda random: random.choice(people)
        weights: Iterable[float] = (1 / place**ZIPF_EXPONENT for place in range(1, len(people) + 1))
        if distribution == "followers":
            weights = (1 + self._graph.by_followee.size(person) for person in people)
        sums = array("d", accumulate(weights))
        return lambda: lambda random: random.choices(people, cum_weights=sums)[0]


def _in_turn(people: Sequence[int]) -> Draw:
    turns = cycle(people)
    return lambda _: next(turns)


class Operations(Iterator[Operation]):
    """The endless sequence of operations: always the same for the same workload, graph, seed and cast.

    It knows who follows whom while it goes on, so that every unfollow ends a follow that exists. What cannot be done
    (nothing to delete, nobody to unfollow) becomes a post.
    """

    def __init__(self, workload: Workload, graph: Graph, seed: int, cast: Cast | None = None) -> None:
        self._workload, self._graph = workload, graph
        cast = cast or Cast(workload, graph, seed)
        self._celebrities, self._reader, self._author = cast.celebrities, cast.reader(), cast.author()
        self._random = Random(f"{seed} {workload.name} operations")
        self._people = len(graph.people)
        self._kinds = list(workload.operations)
        self._shares = list(accumulate(workload.operations.values()))
        self._changed: dict[int, list[int]] = {}  # followees of those who were asked for
        self._blocked: set[frozenset[int]] = set()
        self._posted: list[Operation] = []
        self._numbers = count()

    def __next__(self) -> Operation:
        (kind,) = self._random.choices(self._kinds, cum_weights=self._shares)
        number = next(self._numbers)
        return self._made(kind, number) or self._post(number)

    def _made(self, kind: Kind, number: int) -> Operation | None:
        if kind == "post":
            return self._post(number)
        if kind == "delete":
            posted = self._taken(self._posted)
            return Operation(number, kind, posted.who, target=posted.number) if posted else None
        reader = self._reader(self._random)
        if kind in ("read", "older"):
            return Operation(number, kind, reader)
        other = self._to_follow(reader) if kind == "follow" else self._taken(self._following(reader))
        if other is None:
            return None
        if kind == "block":
            self._blocked.add(frozenset((reader, other)))
            if reader in self._following(other):
                self._following(other).remove(reader)
        return Operation(number, kind, reader, other)

    def _post(self, number: int) -> Operation:
        celebrities = self._celebrities
        by_celebrity = celebrities and self._random.random() < self._workload.celebrity_posts
        who = self._random.choice(celebrities) if by_celebrity else self._author(self._random)
        audience: Audience = "mutuals" if self._random.random() < MUTUALS_SHARE else "followers"
        post = Operation(number, "post", who, text=sentence(self._random.random), audience=audience)
        self._posted.append(post)
        return post

    def _taken(self, items: list[T]) -> T | None:
        if not items:
            return None
        place = self._random.randrange(len(items))
        items[place], items[-1] = items[-1], items[place]
        return items.pop()

    def _to_follow(self, who: int) -> int | None:
        other = self._random.randrange(self._people)
        if other == who or other in self._following(who) or frozenset((who, other)) in self._blocked:
            return None
        self._following(who).append(other)
        return other

    def _following(self, who: int) -> list[int]:
        if who not in self._changed:
            self._changed[who] = self._graph.followees_of(who)
        return self._changed[who]
