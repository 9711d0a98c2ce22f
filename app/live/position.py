"""A position in a stream: what its reader has been told, sealed.

Whoever comes back brings it along, so no process has to remember it.
"""

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from bson import ObjectId

from app import base64url
from app.inbox.notifications import Notification
from app.models import StatusRow
from app.same import Same

PAGE = 20  # statuses, and notifications: the first page of each is followed
SEAL = 16  # bytes
FORM = 1  # the form of what is sealed: any other is no position
LONGEST = 2_000  # characters; ours have 500


class Shown(NamedTuple):
    """A status as the reader has it. Author and `mutual` (it is for mutuals) are not in a position."""

    likes: int
    you_like: bool
    author: ObjectId | None = None
    mutual: bool = False

    @classmethod
    def of(cls, row: StatusRow) -> "Shown":
        return _SHOWN.of(cls(row.likes, row.you_like, row.user_id, row.audience == "mutuals"))


_SHOWN = Same[Shown](20_000)  # about 3 MB


@dataclass(slots=True)
class Has:
    """The state that a reader has.

    `names`: the version of everybody's names. `seq`: of what is numbered in their inbox, the last that they were told
    of; None where they have fetched nothing of it. `page`: their first page, newest first. `notes`: the `seq` of each
    notification of their first page, newest first.
    """

    names: int = 0
    seq: int | None = 0
    page: dict[ObjectId, Shown] = field(default_factory=dict)  # newest first
    notes: list[int] = field(default_factory=list)

    def put(self, row: StatusRow) -> None:
        """Put a status on the page at its place, or replace it; the last one falls off a full page."""
        page = self.page | {row.id: Shown.of(row)}
        self.page = {id: page[id] for id in sorted(page, reverse=True)[:PAGE]}

    def drop(self, id: ObjectId) -> None:
        self.page = {other: shown for other, shown in self.page.items() if other != id}

    def note(self, one: Notification) -> None:
        self.notes = sorted({*self.notes, one.seq}, reverse=True)[:PAGE]
        self.told(one.seq)

    def told(self, seq: int) -> None:
        self.seq = max(self.seq or 0, seq)

    def unnote(self, seq: int) -> None:
        self.notes = [other for other in self.notes if other != seq]

    def has_room_for(self, id: ObjectId) -> bool:
        """Say whether a status with this id would be on the page."""
        return len(self.page) < PAGE or id > next(reversed(self.page))


def sealed(secret: bytes, person: ObjectId, has: Has) -> str:
    packed = bytearray([FORM])
    seq = 0 if has.seq is None else has.seq + 1
    for number in (has.names, seq, len(has.page)):
        _put(packed, number)
    for id, shown in has.page.items():
        packed += id.binary
        _put(packed, 2 * shown.likes + shown.you_like)
    for seq in has.notes:
        _put(packed, seq)
    seal = hmac.digest(secret, person.binary + packed, "sha256")[:SEAL]
    return base64url.encoded(seal + packed)


def opened(secret: bytes, person: ObjectId, position: str) -> Has | None:
    """Open a position. Returns None for one that we have not given to this person."""
    given = base64url.decoded(position) if len(position) <= LONGEST else None
    if given is None:
        return None
    seal, packed = given[:SEAL], given[SEAL:]
    if not hmac.compare_digest(seal, hmac.digest(secret, person.binary + packed, "sha256")[:SEAL]):
        return None
    return _unpacked(packed) if packed[0] == FORM else None


def _unpacked(packed: bytes) -> Has:
    at = iter(packed[1:])
    names, seq, statuses = _number(at), _number(at), _number(at)
    page = {}
    for _ in range(statuses):
        id, likes = ObjectId(bytes(next(at) for _ in range(12))), _number(at)
        page[id] = Shown(likes // 2, bool(likes % 2))
    return Has(names, seq - 1 if seq else None, page, [_number(at, byte) for byte in at])


def _put(packed: bytearray, number: int) -> None:
    """Append a number, seven bits a byte and the lowest first; the last byte is below 128."""
    while number > 127:
        packed.append(number & 127 | 128)
        number >>= 7
    packed.append(number)


def _number(at: Iterator[int], byte: int | None = None) -> int:
    number, shift = 0, 0
    while True:
        byte = next(at) if byte is None else byte
        number |= (byte & 127) << shift
        if byte < 128:
            return number
        byte, shift = None, shift + 7
