"""A reader's edges to the authors of whom they were looked up last, as they are noted beside what is kept for them: the
next process that the reader comes to need not ask. They are true at their version, as any that are remembered.

| seal 16 | form 1, version 12 | author 12, relation 1 | ... |

They decide what the reader sees. Whoever can write to the server that keeps them is not to be believed, so they are
sealed with the secret of the database, for one reader of one container. `feedlab restore` begins other containers, and
after a restore by hand no version comes back, but for 0: what is true before the first change is true whenever it is 0.
"""

import hmac
import struct
from itertools import islice

from bson import ObjectId

from app.edges import OwnEdges, relation
from app.same import IDS
from phases.keeping.store import Container

FORM = 1
SEAL = 16  # bytes of HMAC-SHA256
HEAD, ROW = struct.Struct(">B12s"), struct.Struct(">12sB")
UNCHANGED = bytes(12)  # the version of edges that nobody has changed yet
MOST = 200  # authors: more than a page of 100 has

_RELATIONS = tuple(relation(*(bool(number >> bit & 1) for bit in range(4))) for number in range(16))
_NUMBERS = {one: number for number, one in enumerate(_RELATIONS)}


def packed(secret: bytes, container: Container, edges: OwnEdges) -> bytes | None:
    """Return the edges to those authors who were looked up last, sealed; None where their version may come back."""
    assert edges.backfilled, "no backfill is owed: that is not written down, and so true of all that is noted"
    if isinstance(edges.version, ObjectId):
        version = edges.version.binary
    elif edges.version == 0:
        version = UNCHANGED
    else:
        return None
    last = islice(edges.relations.items(), max(0, len(edges.relations) - MOST), None)
    rows = b"".join([ROW.pack(author.binary, _NUMBERS[one]) for author, one in last])
    body = HEAD.pack(FORM, version) + rows
    return _seal(secret, container, edges.reader, body) + body


def unpacked(secret: bytes, container: Container, reader: ObjectId, raw: bytes) -> OwnEdges | None:
    """Return the edges; None for what was not sealed by us, for this reader and container, in this form."""
    seal, body = raw[:SEAL], raw[SEAL:]
    if not hmac.compare_digest(seal, _seal(secret, container, reader, body)):
        return None
    form, version = HEAD.unpack_from(body)
    if form != FORM:
        return None
    rows = ROW.iter_unpack(body[HEAD.size :])
    relations = {IDS.made(author, ObjectId): _RELATIONS[number] for author, number in rows}
    at = 0 if version == UNCHANGED else ObjectId(version)
    return OwnEdges(reader, at, relations, backfilled=True, noted_in=(container.name,))


def _seal(secret: bytes, container: Container, reader: ObjectId, body: bytes) -> bytes:
    return hmac.digest(secret, b"edges" + container.since.binary + reader.binary + body, "sha256")[:SEAL]
