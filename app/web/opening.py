"""Openings of live streams: who is refused before anybody is asked.

A stream that is refused costs no look-up.
"""

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
    """The person who may open a stream.

    `digest`: of the token, whose end is the end of the stream. `ticket`: what they came with, which the stream spends
    once it is open.
    """

    account: Account
    digest: bytes
    ticket: str | None = None


def bad_ticket() -> Rejected:
    return Rejected(401, "The ticket is unknown, expired or used.", CHALLENGE)


@asynccontextmanager
async def opening(request: HTTPConnection, token: str) -> AsyncIterator[None]:
    """Refuse an opening before anything is asked of a server; count it as under way until the block ends.

    A person is refused who has opened too many lately, or opens too many at this moment. Where nobody here remembers
    the token, an address is refused from which too many openings were refused lately. Raises TooMany.
    """
    here, address = services(request), address_of(request)
    under_way = here.under_way
    holder = here.accounts.remembered(token)
    known = holder and holder.account
    if known:
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
