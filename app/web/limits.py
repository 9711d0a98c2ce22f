"""Limits on a request's size and time, and the headers that go with a picture."""

import re
from typing import NamedTuple


class Limit(NamedTuple):
    """A limit on a request: `size` in bytes, `seconds` from the end of the header."""

    size: int
    seconds: float


ORDINARY = Limit(64 * 1024, 30.0)
PICTURE = Limit(5 * 1024 * 1024 + ORDINARY.size, 120.0)  # with what a form has around it
_PICTURES = re.compile(r"PUT /api/v1/uploads/[^/]+|POST /conversations/[^/]+/picture")


def limit_of(method: str, path: str) -> Limit:
    return PICTURE if _PICTURES.fullmatch(f"{method} {path}") else ORDINARY


PICTURE_HEADERS = {
    "Cache-Control": "private, max-age=300",
    "Vary": "Authorization, Cookie",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
}
