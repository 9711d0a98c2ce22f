"""The possible worlds of a fault run: what people must, may and must not see, from acknowledged answers alone.

What was asked for and not yet answered, or never, leaves several possible worlds: a status is missing only if the
oracle shows it in all of them, and wrong only if in none.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any

from benchmarks.oracle import Relation, admitted


@dataclass(eq=False)
class Post:
    """A status that was posted. Its times are seconds on one monotonic clock; inf: not yet."""

    author: str
    text: str  # unique: how it is recognised when the answer with its id never came
    audience: str
    began_s: float
    id: str | None = None
    acknowledged_s: float = inf
    delete_began_s: float = inf
    deleted_s: float = inf


@dataclass(frozen=True)
class Read:
    """One page, or a walk of several, as it was answered: (id, text) newest first."""

    reader: str
    authors: Sequence[str]  # whose statuses may be on it
    began_s: float
    ended_s: float
    shown: Sequence[tuple[str, str]]
    before: str | None = None
    next: str | None = None
    where: str = ""  # for the report


@dataclass(frozen=True)
class Violation:
    kind: str  # missing, wrong or doubled
    reader: str
    what: str
    where: str
    at_s: float


@dataclass
class Worlds:
    posts: dict[str, Post] = field(default_factory=dict)  # by text
    acknowledged: dict[str, list[Post]] = field(default_factory=dict)  # by author, each list in the order of ids
    relations: dict[tuple[str, str], frozenset[Relation]] = field(default_factory=dict)  # (reader, author): possible

    def begun(self, post: Post) -> None:
        self.posts[post.text] = post

    def acknowledge(self, post: Post, id: str, now_s: float) -> Iterable[Violation]:
        if post.id not in (None, id):
            yield Violation("doubled", post.author, f"{post.text!r} is {post.id} and {id}", "acknowledged", now_s)
        post.id, post.acknowledged_s = id, now_s
        insort(self.acknowledged.setdefault(post.author, []), post, key=_id)

    def asked(self, reader: str, author: str, change: Callable[[Relation], Relation]) -> None:
        """Note that a change is under way, so that it may be made or not."""
        possible = self.relations[reader, author]
        self.relations[reader, author] = possible | {change(relation) for relation in possible}

    def answered(self, reader: str, author: str, change: Callable[[Relation], Relation]) -> None:
        possible = self.relations[reader, author]
        self.relations[reader, author] = frozenset(change(relation) for relation in possible)

    def check(self, read: Read) -> Iterable[Violation]:
        """Yield what is wrong with a read.

        `asked` and `answered` for this reader must not be called between the read's begin and this.
        """
        yield from self._must_not(read)
        yield from self._must(read)

    def _sees(self, read: Read, author: str, audience: str, quantifier: Callable[[Iterable[bool]], bool]) -> bool:
        possible = self.relations.get((read.reader, author), frozenset())
        if author == read.reader:
            possible = frozenset({Relation(same=True)})
        return bool(possible) and quantifier(admitted(audience, relation) for relation in possible)

    def _must_not(self, read: Read) -> Iterable[Violation]:
        def violation(kind: str, what: str) -> Violation:
            return Violation(kind, read.reader, what, read.where, read.began_s)

        ids = [id for id, _ in read.shown]
        if any(newer <= older for newer, older in pairwise(ids)):
            kind = "doubled" if len(set(ids)) < len(ids) else "wrong"
            yield violation(kind, f"not in strictly descending order: {ids}")
        if (read.before and ids and ids[0] >= read.before) or (read.next and not ids):
            yield violation("wrong", f"page {ids} between {read.before} and {read.next}")
        texts: set[str] = set()
        for id, text in read.shown:
            post = self.posts.get(text)
            if text in texts or (post and post.id not in (None, id)):
                yield violation("doubled", f"{text!r} as {id}")
            elif post is None or post.author not in read.authors or not text:
                yield violation("wrong", f"unknown {text!r} as {id}")
            elif post.deleted_s < read.began_s:
                yield violation("wrong", f"deleted {text!r} as {id}")
            elif not self._sees(read, post.author, post.audience, any):
                yield violation("wrong", f"not visible {text!r} ({post.audience}) as {id}")
            else:
                post.id = id
            texts.add(text)

    def _must(self, read: Read) -> Iterable[Violation]:
        shown = {id for id, _ in read.shown}
        lowest = read.shown[-1][0] if read.next and read.shown else ""
        for author in read.authors:
            for post in reversed(self.acknowledged.get(author, [])):
                id = _id(post)
                if id < lowest:
                    break
                settled = post.acknowledged_s < read.began_s and post.delete_began_s > read.ended_s
                if id in shown or not settled or (read.before and id >= read.before):
                    continue
                if self._sees(read, author, post.audience, all):
                    age_s = read.began_s - post.acknowledged_s
                    what = f"{post.text!r} ({post.audience}) {id}, acknowledged {age_s:.3f} s before the read"
                    yield Violation("missing", read.reader, what, read.where, read.began_s)


def _id(post: Any) -> str:
    assert post.id
    return str(post.id)
