"""The follow graph: read from a SNAP edge list, or generated with a heavy tail."""

import gzip
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby, repeat
from math import sqrt
from pathlib import Path
from random import Random
from typing import BinaryIO

from app.demo.progress import Progress, silent
from app.demo.words import FIRST_NAMES
from app.errors import Refused

MAX_PEOPLE = 5_000_000
MAX_FOLLOWS = 16_000_000  # held in memory, 16 bytes each; 40 more while a file's duplicates are removed
MAX_LABEL = 64  # characters
MAX_LINE = 1_000  # bytes
MAX_QUOTE = 60  # characters of a bad line that an error repeats
TOLD_EVERY = 20_000  # lines or people, between two words about the progress

GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

FOLLOW_BACK = 0.25  # share of follows that answer a follow: the mutuals
IMITATION = 0.8  # share of the others that go to somebody whom another person follows already: the celebrities


class GraphError(Refused):
    """The file or the numbers give no graph; the text says where and why."""


class Groups:
    """An index of `numbers`: at which places each number below `count` stands. It takes 4 bytes for each of either."""

    def __init__(self, numbers: "array[int]", count: int) -> None:
        counts = array("I", bytes(4 * (count + 1)))
        for number in numbers:
            counts[number + 1] += 1
        self._begins = array("I", accumulate(counts))
        free = self._begins[:]
        self._places = array("I", bytes(4 * len(numbers)))
        for place, number in enumerate(numbers):
            self._places[free[number]] = place
            free[number] += 1

    def __getitem__(self, number: int) -> "array[int]":
        return self._places[self._begins[number] : self._begins[number + 1]]

    def size(self, number: int) -> int:
        return self._begins[number + 1] - self._begins[number]

    def sizes(self) -> Iterator[int]:
        return map(self.size, range(len(self._begins) - 1))


@dataclass(frozen=True)
class Graph:
    """People and follow edges, each edge once and nobody following themselves.

    `people[i]` is a label; `followers[e]` follows `followees[e]`, both indexes into `people`.
    """

    people: tuple[str, ...]
    followers: "array[int]"
    followees: "array[int]"

    def follows(self) -> Iterator[tuple[int, int]]:
        """Return (follower, followee) of every edge, in a stable order."""
        return zip(self.followers, self.followees, strict=True)

    @cached_property
    def by_follower(self) -> Groups:
        """Return the index of edges by their follower."""
        return Groups(self.followers, len(self.people))

    @cached_property
    def by_followee(self) -> Groups:
        return Groups(self.followees, len(self.people))

    def followees_of(self, person: int) -> list[int]:
        return [self.followees[edge] for edge in self.by_follower[person]]

    def followers_of(self, person: int) -> list[int]:
        return [self.followers[edge] for edge in self.by_followee[person]]


def load(path: Path, directed: bool, progress: Progress = silent) -> Graph:
    """Read a SNAP edge list: `a b` a line, `#` comments and blank lines allowed, plain or gzip.

    `directed`: a follows b; otherwise they are friends and follow each other. Repeated pairs count once; a pair of a
    label with itself adds a person and no edge. People stand in the order of first mention, edges by follower. Raises
    GraphError (file, line, text) at the first bad line, before anything is returned. Source: snap.stanford.edu/data,
    "Data format".
    """
    index: dict[str, int] = {}
    edges = array("Q")  # follower in the upper half, followee in the lower
    with _opened(path) as file:
        for number, a, b in _pairs(path, file):
            i, j = index.setdefault(a, len(index)), index.setdefault(b, len(index))
            if i != j:
                edges.append(i << 32 | j)
                if not directed:
                    edges.append(j << 32 | i)
            if number % TOLD_EVERY == 0:
                progress("lines of the graph", number, 0)
            if len(index) > MAX_PEOPLE or len(edges) > MAX_FOLLOWS:
                raise _bad(path, number, f"more than {MAX_PEOPLE:,} people or {MAX_FOLLOWS:,} follow edges so far")
    if not index:
        raise _bad(path, None, "no pair of labels in it")
    if not edges:
        raise _bad(path, None, "every pair is of a label with itself: nobody follows anybody")
    followers, followees = array("I"), array("I")
    for edge, _ in groupby(sorted(edges)):
        followers.append(edge >> 32)
        followees.append(edge & 0xFFFFFFFF)
    return Graph(tuple(index), followers, followees)


def _bad(path: Path, line: int | None, what: str, text: bytes | None = None) -> GraphError:
    where = str(path).encode(errors="backslashreplace").decode() + (f":{line}" if line else "")
    if text is None:
        return GraphError(f"{where}: {what}")
    quote = text.rstrip(b"\r\n").decode(errors="replace")
    return GraphError(f"{where}: {what}: {quote[:MAX_QUOTE] + '…' * (len(quote) > MAX_QUOTE)!r}")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open the file, unpacked where it is gzip.

    Its first bytes tell that, and it is opened once: a name may be wrong, and a pipe cannot rewind.
    """
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] == GZIP_MAGIC:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield unpacked  # type: ignore[misc]
            else:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _bad(path, None, f"damaged or cut gzip file ({error})") from error
    except OSError as error:
        raise _bad(path, None, f"cannot be read ({error.strerror or error})") from error


def _pairs(path: Path, file: BinaryIO) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, label, label) of every line that holds a pair."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise _bad(path, number, f"longer than {MAX_LINE} bytes", line)
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        if line.startswith(b"#") or not line.strip():
            continue
        try:
            labels = line.decode().split()
        except UnicodeDecodeError:
            raise _bad(path, number, "not UTF-8 text", line) from None
        if len(labels) != 2:
            raise _bad(path, number, f"two labels expected, {len(labels)} found", line)
        if not all(label.isprintable() for label in labels):
            raise _bad(path, number, "a label with unprintable characters", line)
        if max(map(len, labels)) > MAX_LABEL:
            raise _bad(path, number, f"a label longer than {MAX_LABEL} characters", line)
        yield number, labels[0], labels[1]


def powerlaw(users: int, mean: float, seed: int, progress: Progress = silent) -> Graph:
    """Return a follow graph with few celebrities, many mutuals and exactly `round(users * mean)` edges.

    Everybody follows somebody; how many is Pareto-distributed (exponent 2). The followee is one of their own followers
    (FOLLOW_BACK), else the followee of an edge drawn at random, who is popular in proportion to their followers
    (IMITATION), else anybody. That is cumulative advantage, Price, "A general theory of bibliometric and other
    cumulative advantage processes", JASIS 27 (1976); it gives a power law of followers with exponent near 1 +
    1/IMITATION.

    The same arguments give the same graph everywhere: of `random`, only `random()` promises its sequence for every
    Python version, and of floating point only + - * / and sqrt are the same on every machine; nothing else is used.
    Raises GraphError for numbers out of range.
    """
    if not 2 <= users <= MAX_PEOPLE:
        raise GraphError(f"users must be from 2 to {MAX_PEOPLE:,}, not {users:,}")
    if not 1 <= mean <= users - 1:
        raise GraphError(f"the mean number of followees must be from 1 to users - 1 = {users - 1:,}, not {mean:g}")
    if users * mean > MAX_FOLLOWS:
        raise GraphError(f"{users:,} users following {mean:g} each are more than {MAX_FOLLOWS:,} follow edges")
    draw = Random(seed).random
    followers_of: list[list[int]] = [[] for _ in range(users)]
    chosen = array("I")  # the followee of every edge so far
    begins = array("I", bytes(4 * users))  # where each person's are among them
    degrees = _shuffled(_degrees(users, mean), draw)
    for done, person in enumerate(_shuffled(list(range(users)), draw)):
        if done and done % TOLD_EVERY == 0:
            progress("people of the graph", done, users)
        begins[person] = len(chosen)
        for followee in _followees(person, degrees[person], users, followers_of[person], chosen, draw):
            followers_of[followee].append(person)
    followers, followees = array("I"), array("I")
    for person, (begin, degree) in enumerate(zip(begins, degrees, strict=True)):
        followers.extend(repeat(person, degree))
        followees.extend(sorted(chosen[begin : begin + degree]))
    return Graph(tuple(_label(person) for person in range(users)), followers, followees)


def _label(person: int) -> str:
    return f"{FIRST_NAMES[person % len(FIRST_NAMES)].lower()}_{person}"


def _degrees(users: int, mean: float) -> list[int]:
    """Return how many people each of `users` follows.

    They are the quantiles of a Pareto distribution from 1 up, made to sum up exactly.
    """
    most = users - 1
    degrees = [min(most, 1 + int((mean - 1) * (sqrt(users / (rank + 0.5)) - 1))) for rank in range(users)]
    missing = round(users * mean) - sum(degrees)
    while missing:
        step = 1 if missing > 0 else -1
        for rank in range(users):
            if missing and 1 <= degrees[rank] + step <= most:
                degrees[rank] += step
                missing -= step
    return degrees


def _shuffled(items: list[int], draw: Callable[[], float]) -> list[int]:
    for end in range(len(items) - 1, 0, -1):
        other = int(draw() * (end + 1))
        items[end], items[other] = items[other], items[end]
    return items


def _followees(
    person: int, count: int, users: int, followers: list[int], chosen: "array[int]", draw: Callable[[], float]
) -> Iterable[int]:
    """Return `count` different others for `person` to follow, in the order drawn, and append them to `chosen`."""
    if count > users // 2:  # popularity hardly matters then, and drawing until a new one comes would not end
        others = _shuffled([other for other in range(users) if other != person], draw)[:count]
        chosen.extend(others)
        return others
    followees: dict[int, None] = {}
    while len(followees) < count:
        for sample, share in ((followers, FOLLOW_BACK), (chosen, IMITATION), (None, 1.0)):
            if (sample is not None and not sample) or draw() >= share:
                continue
            followee = int(draw() * users) if sample is None else sample[int(draw() * len(sample))]
            if followee != person and followee not in followees:
                followees[followee] = None
                chosen.append(followee)
                break
    return followees
