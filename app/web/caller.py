"""The caller of a request: the address that it comes from, and whether anybody still waits for the answer."""

import asyncio
from collections.abc import Coroutine
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.websockets import WebSocket

T = TypeVar("T")

NETWORK_BITS = 64  # an IPv6 network: what one customer of a provider has at least


def address_of(request: HTTPConnection) -> str:
    """Return the network address that limits are counted by. Behind a trusted proxy uvicorn puts the client's here."""
    return network_of(request.client.host if request.client else "")


def network_of(host: str) -> str:
    """Return an IPv4 address as it is, and the network of an IPv6 address."""
    try:
        address = ip_address(host)
    except ValueError:  # no IP: a Unix socket, or a proxy that says something else
        return host
    if isinstance(address, IPv6Address) and not address.ipv4_mapped:
        return str(IPv6Network((int(address) >> NETWORK_BITS << NETWORK_BITS, NETWORK_BITS)))
    return str(getattr(address, "ipv4_mapped", None) or address)


def host_name(host: str) -> str:
    """Return the name in a Host header, without the port and the brackets of an IPv6 address."""
    name, colon, port = host.lower().rpartition(":")
    return (name if colon and (port.isdecimal() or not port) else host.lower()).strip("[]").rstrip(".")


async def while_it_waits(request: Request | WebSocket, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, which is cancelled when the client goes, so that it holds up nobody else.

    The request's body must have been read. Raises ClientDisconnect.
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
