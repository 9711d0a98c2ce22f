"""Parts of a page that stay up to date by server-sent events, each event the part's whole HTML.

Every part is on the page already when it is opened; without JavaScript a reload brings the next state.

The server looks for changes of these parts every few seconds, other than for a live stream, which hints push. They are
figures (what is pending, queued, late, delivered so far) that change many times a second, so a hint of each change
would cost more than a look for the one or two who have such a page open.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

from bson import ObjectId
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.stack import outages_told
from app.web.session import known_session
from app.web.state import services

log = logging.getLogger(__name__)

LONGEST_S = 600.0  # then the stream ends, and the browser opens another by itself
HEARTBEAT_S = 15.0
SURE_S = 3.0  # a session that has ended, in whatever process, ends its streams within this
MOST_STREAMS, STREAMS_EACH = 500, 10  # of one process, and of one person in it
MEDIA_TYPE = "text/event-stream"
DONE = "event: end\ndata: \n\n"  # nothing more is to come: the page opens no other before it is looked at again

Part = Callable[[], Awaitable[str | None]]  # HTML; None: this was all


class Streams:
    """The open streams: one per session and subject, and only so many of one person.

    A newer one ends the one before it.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[ObjectId, str, str], asyncio.Event] = {}  # by person, session and subject; oldest first
        self.stopping = False

    def begin(self, person: ObjectId, session: str, subject: str) -> asyncio.Event | None:
        """Begin a stream, and return the event that ends it; None when there are too many."""
        theirs = [key for key in self._open if key[0] == person]
        if (person, session, subject) in theirs:
            self._open.pop((person, session, subject)).set()
        elif len(theirs) >= STREAMS_EACH:
            self._open.pop(theirs[0]).set()
        if len(self._open) >= MOST_STREAMS:
            return None
        self._open[person, session, subject] = ended = asyncio.Event()
        return ended

    def ended(self, event: asyncio.Event) -> None:
        self._open = {key: other for key, other in self._open.items() if other is not event}

    def end(self, session: str) -> None:
        """End the streams of a session that signs out."""
        for (_, whose, _), event in self._open.items():
            if session == whose:
                event.set()

    def stop(self) -> None:
        """End all streams, because the process ends. Browsers open others, where another process answers."""
        self.stopping = True
        for event in self._open.values():
            event.set()


async def stream(request: Request, subject: str, part: Part, every_s: float) -> Response:
    """Send what `part` returns whenever it has changed, looking every `every_s`. Raises TooMany."""
    headers = {"Cache-Control": "no-store"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type=MEDIA_TYPE)
    streams: Streams = request.app.state.streams
    known = known_session(request)
    assert known, "a stream is somebody's"
    assert known.account, "a stream is somebody's"
    await services(request).openings.count(known.account.id)
    ended = streams.begin(known.account.id, known.secret, subject)
    if ended is None:
        return Response(status_code=204)  # an EventSource does not come back; the page does, later and later

    events = _events(request, known.secret, part, every_s, ended)
    return PartsStream(events, headers, partial(streams.ended, ended))


class PartsStream(StreamingResponse):
    """The answer that is a stream of parts. `ended` is called once its request ends, also where it has not begun."""

    def __init__(self, events: AsyncIterator[str], headers: Mapping[str, str], ended: Callable[[], None]) -> None:
        super().__init__(events, headers=headers, media_type=MEDIA_TYPE)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def _events(request: Request, token: str, part: Part, every_s: float, ended: asyncio.Event) -> AsyncIterator[str]:
    accounts = services(request).accounts
    loop = asyncio.get_running_loop()
    until_s, silent_until_s, sure_until_s = loop.time() + LONGEST_S, 0.0, loop.time() + SURE_S
    last: str | None = None
    while not await request.is_disconnected():
        with outages_told(log.info, "a live part goes on for a session that nobody can look up"):
            if loop.time() >= sure_until_s:
                sure_until_s = loop.time() + SURE_S
                if await accounts.authenticate(token) is None:
                    break
        html = last
        with outages_told(log.info, "a live part waits for a server"):
            html = await part()
            if html is None:
                break
        if html and html != last:
            last, silent_until_s = html, loop.time() + HEARTBEAT_S
            yield _event(html)
        elif loop.time() > silent_until_s:
            silent_until_s = loop.time() + HEARTBEAT_S
            yield ": still here\n\n"
        if loop.time() >= until_s:
            return
        try:
            await asyncio.wait_for(ended.wait(), every_s)
        except TimeoutError:
            continue
        break
    if not request.app.state.streams.stopping:
        yield DONE


def _event(html: str) -> str:
    return "".join(f"data: {line}\n" for line in html.splitlines() or [""]) + "\n"
