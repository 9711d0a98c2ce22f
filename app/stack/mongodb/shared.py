"""Shared look-ups: those that are asked for while a command is under way go together in the next one.

Most of what a look-up costs is the command around it, so the busier a process is, the less a page costs it. A request
that is alone waits for nobody. A command takes half of the requests that are here: while MongoDB answers these, the
process makes the pages of the others. Source: DataLoader (github.com/graphql/dataloader) puts look-ups by key together;
a group commit waits like this.
"""

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from contextvars import Context
from dataclasses import replace
from itertools import chain
from math import ceil
from typing import Any, NamedTuple

from bson import ObjectId

from app.stack.mongodb.lookup import TAGS, Answer, Find, Rows

MOST = 16  # requests that share a command

Answers = dict[str, Rows]


class _Asked(NamedTuple):
    finds: Mapping[str, Find]
    answered: "asyncio.Future[Answers]"


class Shared:
    """The shared look-ups of one process and database."""

    def __init__(self) -> None:
        self._waiting: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None

    async def ask(self, answer: Answer, finds: Mapping[str, Find]) -> Answers:
        """Answer look-ups as of a moment after they were asked. All of `finds` must be such that may be shared.

        The rows are the same objects for all who share them. Who gives up leaves `answer` alone: others may share it.
        """
        asked = _Asked(finds, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._sending is None:
            self._go_on(answer, 0)
        return await asked.answered

    def _go_on(self, answer: Answer, answered: int) -> None:
        """Send the next look-ups. `answered`: how many requests have just been, and will soon ask again.

        In a context of its own: what the limit and the name of one request are is nothing to the others.
        """
        waiting = [asked for asked in self._waiting if not asked.answered.done()]  # others have given up
        half = min(ceil((len(waiting) + answered) / 2), MOST)
        some, self._waiting = waiting[:half], waiting[half:]
        self._sending = asyncio.create_task(self._send(answer, some), context=Context()) if some else None

    async def _send(self, answer: Answer, some: Sequence[_Asked]) -> None:
        """Send the look-ups of several requests. An error is told to all of them, and the next ones go on.

        These are sent before anybody goes on with the answers, so that MongoDB has something to do meanwhile.
        """
        found: list[Answers] | BaseException
        try:
            found = await answered(answer, [asked.finds for asked in some])
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - told to whoever asked
            found = error
        self._go_on(answer, len(some))
        for number, asked in enumerate(some):
            if asked.answered.done():
                continue
            if isinstance(found, BaseException):
                asked.answered.set_exception(found)
            else:
                asked.answered.set_result(found[number])


async def answered(answer: Answer, requests: Sequence[Mapping[str, Find]]) -> list[Answers]:
    """Answer the look-ups of some requests, all as of one moment."""
    command = _Command(requests)
    answers = await answer(command.finds)
    if command.is_cut(answers):
        command = _Command(requests, apart=True)
        answers = await answer(command.finds)
    return [command.split(answers, finds) for finds in requests]


class _Command:
    """One command for the look-ups of some requests.

    Look-ups that are equal are in it once, and so are those that differ in the values of a field that they go by.
    Those that go by tags become one `find`. That may be cut where one of them alone finds many; then they are asked
    `apart`, each with a limit of its own.
    `finds`: these, by names of its own.
    """

    def __init__(self, requests: Sequence[Mapping[str, Find]], *, apart: bool = False) -> None:
        self._by_value: dict[str, dict[Any, dict[str, Any]]] = {}
        self._names: dict[int, str] = {}  # of each look-up, by its identity
        alike: dict[Hashable, list[Find]] = {}
        for find in chain.from_iterable(request.values() for request in requests):
            alike.setdefault(_shape(find, apart), []).append(find)
        for number, finds in enumerate(alike.values()):
            self._names |= {id(find): str(number) for find in finds}
        self.finds = {str(number): _all_of(finds) for number, finds in enumerate(alike.values())}

    def is_cut(self, answers: Answers) -> bool:
        """Return whether there may be more with one of these tags than one `find` has looked for."""
        return any(_is_of_many(find) and len(answers[name]) >= find.limit for name, find in self.finds.items())

    def split(self, answers: Answers, request: Mapping[str, Find]) -> Answers:
        """Return the answers to one of the requests."""
        return {name: list(self._rows(answers, find)) for name, find in request.items()}

    def _rows(self, answers: Answers, find: Find) -> Rows:
        name = self._names[id(find)]
        rows = answers[name]
        if not rows or self.finds[name] is find:
            return rows
        if find.tags:
            return _tagged_among(rows, find) if _is_of_many(self.finds[name]) else rows
        if not find.by:
            return rows
        found = self._by_value.get(name)
        if found is None:
            found = self._by_value[name] = {_key(row[find.by]): row for row in rows}
        return [found[key] for key in map(_key, find.values()) if key in found]


def _key(value: Any) -> Any:
    """Return what a value is told by: the bytes of an id, which compare without a call of Python."""
    return value.binary if type(value) is ObjectId else value


def _shape(find: Find, apart: bool) -> Hashable:
    """Return a look-up without the values that it goes by: those of the same shape become one.

    A look-up that only travels along has a shape of its own.
    """
    if find.along:
        return id(find)
    if find.tags and not apart:
        return find.collection
    if find.tags:
        return find.collection, find.fields, (find.tags, find.limit) if find.order else None
    rest = {field: value for field, value in find.query.items() if field != find.by}
    return find.collection, find.fields, find.by, repr(rest) if rest else None


def _all_of(finds: Sequence[Find]) -> Find:
    """Return one look-up that finds what all of these do, which have one shape. MongoDB takes each value once."""
    first = finds[0]
    if len(finds) == 1:
        return first
    if first.tags:
        return _of_all_tags(finds)
    if not first.by:
        return first
    values = list(chain.from_iterable(find.values() for find in finds))
    return replace(first, query={**first.query, first.by: {"$in": values}}, limit=len(values))


def _of_all_tags(finds: Sequence[Find]) -> Find:
    """Return one look-up of whatever has a tag that one of these goes by: all of its fields, since MongoDB takes longer
    to leave some out. If it finds less than its limit, it has found all.
    """
    distinct = {(find.tags, find.fields, find.limit, bool(find.order)): find for find in finds}
    if len(distinct) == 1:
        return finds[0]
    tags = list(dict.fromkeys(chain.from_iterable(find.tags for find in finds)))
    return Find.tagged(finds[0].collection, tags, (), 1 + sum(find.limit for find in distinct.values()))


def _is_of_many(find: Find) -> bool:
    """Return whether it was made of several, which go by tags."""
    return bool(find.tags) and not find.fields


def _tagged_among(rows: Rows, find: Find) -> Rows:
    tags = frozenset(find.tags)
    found = [row for row in rows if not tags.isdisjoint(row[TAGS])]
    if find.order:
        found.sort(key=lambda row: row["_id"].binary, reverse=True)
    return found[: find.limit]
