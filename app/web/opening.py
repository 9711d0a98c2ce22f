"""Who may open a live stream, as far as nobody has to be asked: a stream that is refused costs no look-up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from starlette.requests import HTTPConnection

from app.errors import TooMany
from app.live.connection import EACH
from app.models import Account
from app.web.caller import address_of
from app.web.problems import CHALLENGE, Rejected
from app.web.state import services


class Admission(NamedTuple):
    """Who may open a stream. `digest`: of the token, whose end is the end of the stream. `ticket`: what they came with,
    which the stream spends once it is open.
    """

    account: Account
    digest: bytes
    ticket: str | None = None


def bad_ticket() -> Rejected:
    return Rejected(401, "The ticket is unknown, expired or used.", CHALLENGE)


@asynccontextmanager
async def opening(request: HTTPConnection, token: str) -> AsyncIterator[None]:
    """Refuses before anything is asked of a server: a person who has opened too many lately, or opens too many at this
    moment; or, where nobody here remembers the token, an address that many were refused lately who came from it. Raises
    TooMany.
    """
    here, address = services(request), address_of(request)
    under_way = here.under_way
    if known := here.accounts.remembered(token):
        here.openings.refuse_known(known.id)
        if under_way[known.id] >= EACH:
            raise TooMany("Too many live streams are being opened at this moment.", 1)
        under_way[known.id] += 1
    else:
        here.refusals.refuse_known(address)
    try:
        yield
    except (TooMany, Rejected):
        if not known:
            await here.refusals.hit(address)
        raise
    finally:
        if known:
            under_way[known.id] -= 1
            if not under_way[known.id]:
                del under_way[known.id]
