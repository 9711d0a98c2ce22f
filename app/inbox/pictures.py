"""Pictures for messages: an address that takes one, once; and what it takes, checked and made anew.

What is kept is never what was sent: it is decoded as the type that it was said to be, and encoded again without a word
of where and with what it was taken. The address says all about what may come, and is signed, so nothing is stored
before the picture is.
"""

import asyncio
import hmac
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, Literal, get_args

from bson import ObjectId
from PIL import Image, ImageOps, ImageSequence
from pymongo.errors import DuplicateKeyError

from app import base64url
from app.accounts import in_thread
from app.errors import Conflict, Invalid, NotFound
from app.inbox.places import Places
from app.models import Image as ImageDocument
from app.stack import Stack, schema
from app.stack.mongodb.find import Find, together
from app.stack.mongodb.transaction import Transaction
from app.stack.mongodb.write import insert

Limited = Callable[[Awaitable[Any]], Awaitable[Any]]

IMAGES = ImageDocument.Settings.name
Type = Literal["image/png", "image/jpeg", "image/webp", "image/gif"]
TYPES: tuple[Type, ...] = get_args(Type)
FORMATS: dict[str, str] = {type: type.removeprefix("image/").upper() for type in TYPES}  # Pillow's names of the types
MOVING = ("GIF", "WEBP")

LARGEST = 5 * 1024 * 1024  # bytes, as sent
LARGEST_KEPT = 12 * 1024 * 1024  # bytes; a document of MongoDB has 16 MiB at most
MOST_PIXELS = 16_000_000  # in one picture; decoded they take 64 MB
MOST_PIXELS_MOVING = 24_000_000  # in all frames of a moving picture, which are in memory together
MOST_FRAMES = 300
LIMITS = (
    f"A picture has at most {MOST_PIXELS:,} pixels; one that moves has at most {MOST_FRAMES} frames, of "
    f"{MOST_PIXELS_MOVING:,} pixels in all; and what we make of it has at most {LARGEST_KEPT >> 20} MB."
)
MOST_PARTS = 200  # of a kind that takes its time to read however few bytes it has
MOST_EXIF = 512 * 1024  # bytes; Pillow reads each number of them in Python, which takes a second for a megabyte
PARTS: dict[str, dict[bytes, int]] = {
    # scans, each of which goes over all pixels; and pieces of Exif data, which have 64 KB at most
    "JPEG": {b"\xff\xda": MOST_PARTS, b"Exif\0\0": MOST_EXIF // (64 * 1024)},
    # a colour profile and texts, compressed
    "PNG": dict.fromkeys((b"iCCP", b"zTXt", b"iTXt"), MOST_PARTS),
}
TOO_LONG = (
    f"A picture has at most {MOST_PARTS} scans, as many profiles or texts of a kind, and {MOST_EXIF >> 10} KiB of Exif "
    "data."
)
ADDRESS_S = 600  # how long an address takes a picture
UNSENT = timedelta(days=1)  # how long a picture waits to be sent
MOST_IN, EACH_IN = 16 * LARGEST, 3 * LARGEST  # bytes that arrive in one process at once, and of one person
SLOWEST = 256 * 1024  # bytes a second: what passes more slowly makes room where there is none
DECODED_AT_ONCE = 2
READ_AT_ONCE = 2  # from the database, before it is known how large they are
MOST_OUT, EACH_OUT = 8 * LARGEST_KEPT, 3 * LARGEST_KEPT  # the same of those that go out

SIGNATURE = 32  # bytes
_PAYLOAD = struct.Struct(">12s12sBII")  # picture, owner, type, size, when it expires
ADDRESS_LENGTH = -(-(_PAYLOAD.size + SIGNATURE) * 4 // 3)  # characters

# Pillow refuses what has twice as many pixels before anything is decoded.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
# What its decoders raise on bytes that are no such picture.
UNREADABLE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, AttributeError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


@dataclass(frozen=True)
class Upload:
    """The picture that an address takes: `size` bytes of this type. `id`: the picture's."""

    id: ObjectId
    owner: ObjectId
    type: Type
    size: int
    expires_at: datetime


@dataclass(frozen=True)
class Picture:
    type: str
    data: bytes


async def _whole(body: AsyncIterator[bytes], size: int) -> bytes:
    """Return a body of this size. Raises Invalid for any other, without reading on."""
    sent = bytearray()
    async for piece in body:
        sent += piece
        if len(sent) > size:
            break
    if len(sent) != size:
        raise Invalid("size", f"This address takes {size:,} bytes.")
    return bytes(sent)


class Pictures:
    """The pictures of all messages. There is one instance per process."""

    def __init__(self, stack: Stack) -> None:
        self._db, self._clock = stack.db, stack.clock
        self._secret: bytes | None = None
        self._decoding = asyncio.Semaphore(DECODED_AT_ONCE)
        self._reading = asyncio.Semaphore(READ_AT_ONCE)
        self.arriving = Places(MOST_IN, EACH_IN, SLOWEST, "Too many pictures arrive at this moment.")
        self.outgoing = Places(MOST_OUT, EACH_OUT, SLOWEST, "Too many pictures are being sent at this moment.")

    async def address(self, owner: ObjectId, type: Type, size: int) -> tuple[str, Upload]:
        """Make an address; return the secret part of it, and what it takes."""
        expires_at = (self._clock.now() + timedelta(seconds=ADDRESS_S)).replace(microsecond=0)
        upload = Upload(self._clock.new_id(), owner, type, size, expires_at)
        payload = _PAYLOAD.pack(upload.id.binary, owner.binary, TYPES.index(type), size, int(expires_at.timestamp()))
        return base64url.encoded(payload + await self._signature(payload)), upload

    async def admitted(self, address: str) -> Upload:
        """Return what this address takes now.

        Raises NotFound, also where its owner has deleted their account, and Conflict where it has taken it.
        """
        unknown = NotFound("This address takes nothing, or takes nothing any more.")
        given = base64url.decoded(address)
        if given is None or len(given) != _PAYLOAD.size + SIGNATURE:
            raise unknown
        id, owner, type, size, expires = _PAYLOAD.unpack(given[:-SIGNATURE])
        upload = Upload(ObjectId(id), ObjectId(owner), TYPES[0], size, datetime.fromtimestamp(expires, UTC))
        signed = hmac.compare_digest(given[-SIGNATURE:], await self._signature(given[:-SIGNATURE]))
        if not signed or upload.expires_at <= self._clock.now():
            raise unknown
        gone = Find("users", {"_id": upload.owner, "deleted": True}, ("_id",), 1)
        found = await together(self._db, taken=Find(IMAGES, {"_id": upload.id}, ("_id",), 1), gone=gone)
        if found["gone"]:
            raise unknown
        if found["taken"]:
            raise Conflict("This address has taken its picture.")
        return Upload(upload.id, upload.owner, TYPES[type], size, upload.expires_at)

    async def _signature(self, payload: bytes) -> bytes:
        self._secret = self._secret or await schema.secret(self._db)
        return hmac.digest(self._secret, b"feedlab upload" + payload, "sha256")

    async def take(self, upload: Upload, body: AsyncIterator[bytes], in_time: Limited = lambda work: work) -> None:
        """Store the picture that arrives, made anew.

        Raises Invalid, TooMany, and Conflict where another has been faster.
        """
        with self.arriving.place(upload.owner, LARGEST) as place:
            await self.store(upload, await place.passage(_whole(body, upload.size)), in_time)

    async def store(self, upload: Upload, sent: bytes, in_time: Limited = lambda work: work) -> None:
        """Store a picture that has arrived in one of the places, made anew. `in_time`: limits how long that waits for
        the server.

        Raises Invalid, and Conflict where another has been faster.
        """
        async with self._decoding:
            data = await in_thread(made_anew, sent, upload.type)
        until = self._clock.now() + UNSENT
        new = ImageDocument(
            id=upload.id, owner=upload.owner, type=upload.type, data=data, readers=[upload.owner], until=until
        )
        try:
            await in_time(insert(self._db, new))
        except DuplicateKeyError:
            raise Conflict("This address has taken its picture.") from None

    async def picture(self, reader: ObjectId, id: ObjectId) -> Picture:
        """Return a picture. Raises NotFound for a reader who may not see it."""
        async with self._reading:
            found = await self._db[IMAGES].find_one({"_id": id, "readers": reader}, {"type": 1, "data": 1})
        if not found:
            raise NotFound("There is no such picture.")
        return Picture(found["type"], bytes(found["data"]))


def waiting(id: ObjectId, owner: ObjectId, now: datetime) -> Find:
    """Return the look-up of one's own picture, if it has not been sent yet."""
    query = {"_id": id, "owner": owner, "until": {"$gt": now}, "data": {"$exists": True}}
    return Find(IMAGES, query, ("_id",), 1)


def not_waiting() -> Invalid:
    return Invalid("image", "This is no picture that you have uploaded and not sent yet.")


async def sent(inside: Transaction, find: Find, readers: list[ObjectId]) -> None:
    """Let a picture go into a conversation, which it does once; from then on it stays. Raises Invalid."""
    change = {"$set": {"readers": readers}, "$unset": {"until": ""}}
    if not await inside[IMAGES].update_one(find.query, change, upsert=False):
        raise not_waiting()


async def removed(inside: Transaction, id: ObjectId, now: datetime) -> None:
    """Remove a picture, so that nobody sees it any more.

    That its address has been used is known until that has expired.
    """
    change: dict[str, Any] = {"$unset": {"data": ""}, "$set": {"readers": [], "until": now + UNSENT}}
    await inside[IMAGES].update_one({"_id": id}, change, upsert=False)


def made_anew(sent: bytes, type: Type) -> bytes:
    """Return the same picture, upright, with nothing but its pixels. Raises Invalid."""
    try:
        return _made_anew(sent, FORMATS[type])
    except UNREADABLE:
        raise Invalid("body", f"This file is not a {FORMATS[type]} picture.") from None


def _made_anew(sent: bytes, format: str) -> bytes:
    if any(sent.count(part) > most for part, most in PARTS.get(format, {}).items()):
        raise Invalid("body", TOO_LONG)
    made = BytesIO()
    frames, ways = _decoded(sent, format)
    frames[0].save(made, format, **ways)
    if len(made.getbuffer()) > LARGEST_KEPT:
        raise Invalid("body", LIMITS)
    return made.getvalue()


def _decoded(sent: bytes, format: str) -> tuple[list[Image.Image], dict[str, Any]]:
    """Return the frames of a picture, and the ways in which they are saved.

    What the decoder holds is let go before they are: that takes as much memory again.
    """
    with Image.open(BytesIO(sent), formats=[format]) as image:
        _bounded(image.width * image.height, 1)
        if not (format in MOVING and getattr(image, "is_animated", False)):
            _turn_upright(image)
            return [_pixels(image, opaque=format == "JPEG")], QUALITY.get(format, {})
        frames, pauses = [], []
        for n, frame in enumerate(ImageSequence.Iterator(image), 1):
            _bounded(frame.width * frame.height, n)
            frames.append(_pixels(frame))
            pauses.append(frame.info.get("duration", 100))
        loop = {"loop": image.info["loop"]} if "loop" in image.info else {}
        more = {"disposal": 2} if format == "GIF" else {}
        return frames, {"save_all": True, "append_images": frames[1:], "duration": pauses, **loop, **more}


EXIF = ("exif", "Raw profile type exif")  # Pillow's names of what may hold it


def _turn_upright(image: Image.Image) -> None:
    """Turn an image as its Exif data say. What these were made of goes first: Pillow would write them anew, in Python,
    and nobody keeps them. Raises Invalid.
    """
    image.load()
    if any(len(image.info.get(told, "")) > MOST_EXIF for told in EXIF):
        raise Invalid("body", TOO_LONG)
    image.getexif()  # from now on the image knows them
    for told in EXIF:
        image.info.pop(told, None)
    ImageOps.exif_transpose(image, in_place=True)


QUALITY: dict[str, dict[str, Any]] = {"JPEG": {"quality": 88}, "WEBP": {"quality": 88}}


def _bounded(pixels: int, frames: int) -> None:
    if pixels > MOST_PIXELS or pixels * frames > MOST_PIXELS_MOVING or frames > MOST_FRAMES:
        raise Invalid("body", LIMITS)


def _pixels(image: Image.Image, *, opaque: bool = False) -> Image.Image:
    """Copy the pixels of an image, and nothing else that it knows."""
    if image.mode.startswith("I"):
        image = _of_8_bits(image)
    bare = image.convert("RGBA" if image.has_transparency_data and not opaque else "RGB")
    bare.info = {}
    return bare


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 bits in 8. Pillow would make everything white that is not nearly black."""
    grey, clear = image.convert("I"), image.info.get("transparency")
    shades = grey.point([value >> 8 for value in range(1 << 16)], "L")
    shades.info = {}
    if clear is None:
        return shades
    return Image.merge("LA", (shades, grey.point([255 * (value != clear) for value in range(1 << 16)], "L")))
