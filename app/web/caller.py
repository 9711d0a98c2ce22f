"""Where a request comes from, and whether anybody still waits for its answer."""

import asyncio
from collections.abc import Coroutine
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.websockets import WebSocket

T = TypeVar("T")

NETWORK_BITS = 64  # of IPv6: what one customer of a provider has at least


def address_of(request: HTTPConnection) -> str:
    """The network address that limits are counted by. Behind a trusted proxy uvicorn puts the client's here."""
    return network_of(request.client.host if request.client else "")


def network_of(host: str) -> str:
    """An IPv4 address as it is, of an IPv6 one the network."""
    try:
        address = ip_address(host)
    except ValueError:  # no IP: a Unix socket, or a proxy that says something else
        return host
    if isinstance(address, IPv6Address) and not address.ipv4_mapped:
        return str(IPv6Network((int(address) >> NETWORK_BITS << NETWORK_BITS, NETWORK_BITS)))
    return str(getattr(address, "ipv4_mapped", None) or address)


def host_name(host: str) -> str:
    """Of the header Host, without the port and the brackets of an IPv6 address."""
    name, colon, port = host.lower().rpartition(":")
    return (name if colon and (port.isdecimal() or not port) else host.lower()).strip("[]").rstrip(".")


async def while_it_waits(request: Request | WebSocket, work: Coroutine[Any, Any, T]) -> T:
    """The result; given up when the client goes, so that nobody waits behind those who have gone.

    The body has been read. Raises ClientDisconnect.
    """
    working, going = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([working, going], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, going):
            task.cancel()
        await asyncio.gather(working, going, return_exceptions=True)


async def _gone(request: Request | WebSocket) -> None:
    while (await request.receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
        pass
