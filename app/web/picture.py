"""A picture as an answer. It goes out in pieces, so that whoever reads slowly gets it, too."""

import logging

from bson import ObjectId
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import TooMany
from app.inbox.pictures import Picture
from app.web.limits import PICTURE_HEADERS
from app.web.state import in_time, services

log = logging.getLogger(__name__)

PIECE = 64 * 1024  # bytes; a client is closed that does not read so many within protocol.READ_S


class PictureResponse(Response):
    """The answer that is a picture. It is looked up when it is sent, since it has a place in memory from then on.

    Raises NotFound for a reader who may not see it, and TooMany.
    """

    def __init__(self, request: Request, reader: ObjectId, id: ObjectId) -> None:
        super().__init__()
        self._request, self._reader, self._id = request, reader, id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pictures = services(self._request).pictures
        found = await in_time(self._request, pictures.picture(self._reader, self._id))
        with pictures.outgoing.place(self._reader, len(found.data)) as place:
            answer = Response(found.data, 200, PICTURE_HEADERS, found.type)
            await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
            try:
                await place.passage(_send(found, send))
            except TooMany as error:
                log.warning("a picture is broken off: %s", error)  # an answer without its end closes the connection


async def _send(picture: Picture, send: Send) -> None:
    for begins in range(0, len(picture.data), PIECE):
        piece = picture.data[begins : begins + PIECE]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
