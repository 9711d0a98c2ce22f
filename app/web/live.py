"""Parts of a page that stay up to date by server-sent events, each event the part's whole HTML.

Every part is on the page already when it is opened; without JavaScript a reload brings the next state.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.stack import UNAVAILABLE
from app.web.session import session_token

log = logging.getLogger(__name__)

LONGEST_S = 600.0  # then the stream ends; the page opens another when it is looked at again
HEARTBEAT_S = 15.0
MOST_STREAMS = 500  # of one process
DONE = "event: end\ndata: \n\n"  # the page shall not connect again

Part = Callable[[], Awaitable[str | None]]  # HTML; None: this was all


class Streams:
    """One stream per session and subject: a newer one ends the one before it."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], asyncio.Event] = {}

    def begin(self, session: str, subject: str) -> asyncio.Event | None:
        """What ends the new stream; None when there are too many."""
        if before := self._open.pop((session, subject), None):
            before.set()
        if len(self._open) >= MOST_STREAMS:
            return None
        self._open[session, subject] = ended = asyncio.Event()
        return ended

    def ended(self, session: str, subject: str, event: asyncio.Event) -> None:
        if self._open.get((session, subject)) is event:
            del self._open[session, subject]

    def end(self, session: str | None = None) -> None:
        """End the streams of a session that signs out; all of them when the process stops."""
        for (whose, _), event in self._open.items():
            if session in (None, whose):
                event.set()


def stream(request: Request, subject: str, part: Part, every_s: float) -> Response:
    """Send what `part` returns whenever it has changed, looking every `every_s`."""
    streams: Streams = request.app.state.streams
    session = session_token(request)
    ended = streams.begin(session, subject)
    if ended is None:
        return Response(status_code=204)  # tells an EventSource not to come back

    async def events() -> AsyncIterator[str]:
        try:
            async for event in _events(request, part, every_s, ended):
                yield event
        finally:
            streams.ended(session, subject, ended)

    return StreamingResponse(events(), headers={"Cache-Control": "no-store"}, media_type="text/event-stream")


async def _events(request: Request, part: Part, every_s: float, ended: asyncio.Event) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    until_s, silent_until_s = loop.time() + LONGEST_S, 0.0
    last: str | None = None
    while not await request.is_disconnected():
        html = last or ""
        try:
            found = await part()
            if found is None:
                break
            html = found
        except UNAVAILABLE as error:
            log.info("a live part waits for a server: %s", error)
        if html != last:
            last, silent_until_s = html, loop.time() + HEARTBEAT_S
            yield _event(html)
        elif loop.time() > silent_until_s:
            silent_until_s = loop.time() + HEARTBEAT_S
            yield ": still here\n\n"
        if ended.is_set() or loop.time() >= until_s:
            break
        try:
            await asyncio.wait_for(ended.wait(), every_s)
        except TimeoutError:
            continue
        break
    yield DONE


def _event(html: str) -> str:
    return "".join(f"data: {line}\n" for line in html.splitlines() or [""]) + "\n"
