"""Joined look-ups: those that one request asks for at the same time travel in one command."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from app.stack.mongodb.lookup import Answer, Find, Rows


@contextmanager
def joined() -> Iterator[None]:
    """Join what this task, and those that it starts, look up in one turn of the event loop into one command.

    A remembered page is little more than its commands, so the token beside it is worth a wait for the next turn. The
    command is part of the cost of each that asked. This is only for look-ups of one request: nobody waits for a
    stranger's.
    """
    before = _turn.set(_Turn())
    try:
        yield
    finally:
        _turn.reset(before)


async def ask(answer: Answer, finds: Mapping[str, Find]) -> dict[str, Rows]:
    """Answer look-ups, together with what else this request asks for in this turn, or alone where nothing is joined."""
    turn = _turn.get()
    return await (turn.ask(answer, finds) if turn else answer(finds))


class _Turn:
    """A turn of the event loop, for which look-ups wait. All are of one database."""

    def __init__(self) -> None:
        self._next: _Command | None = None

    async def ask(self, answer: Answer, finds: Mapping[str, Find]) -> dict[str, Rows]:
        if self._next is None:
            self._next = _Command()
            self._next.sending = asyncio.create_task(self._send(answer, self._next))
        return await self._next.answer(finds)

    async def _send(self, answer: Answer, command: "_Command") -> dict[str, Rows]:
        """Send the look-ups. It begins after whatever was ready to run when the first of them was asked."""
        self._next = None
        return await answer(command.finds)


class _Command:
    """A command that some tasks wait for. It is given up when nobody waits for it any more."""

    sending: "asyncio.Task[dict[str, Rows]]"

    def __init__(self) -> None:
        self.finds: dict[str, Find] = {}
        self._waiting = 0

    async def answer(self, finds: Mapping[str, Find]) -> dict[str, Rows]:
        names = {name: f"{len(self.finds)} {name}" for name in finds}
        self.finds |= {names[name]: find for name, find in finds.items()}
        self._waiting += 1
        try:
            answers = await asyncio.shield(self.sending)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.sending.cancel()
        return {name: answers[named] for name, named in names.items()}


_turn: ContextVar[_Turn | None] = ContextVar("turn", default=None)
