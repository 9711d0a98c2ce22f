"""Pictures: the bytes are what they say, nothing else of them is kept, and only the two people see it."""

import asyncio
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from io import BytesIO
from math import isqrt
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import pytest
from bson import ObjectId
from PIL import Image, ImageSequence, PngImagePlugin, TiffImagePlugin

from app.departures import depart
from app.errors import Conflict, Invalid, NotFound, TooMany
from app.inbox import pictures
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.pictures import ADDRESS_S, FORMATS, IMAGES, UNSENT, Pictures, Type, made_anew
from app.stack.mongodb.stand_in import is_stand_in
from tests.contract.test_departures import cleared
from tests.dates import NOON
from tests.waiting import eventually
from tests.world import World

pytestmark = pytest.mark.anyio

WHERE = b"48 51 30 N 2 17 40 E"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
RED, BLUE = (220, 20, 20), (20, 20, 220)


def drawn(type: Type, size: tuple[int, int] = (40, 20), **options: Any) -> bytes:
    """Red, with blue on the left."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (0, 0, size[0] // 4, size[1]))
    made = BytesIO()
    image.save(made, type.removeprefix("image/"), **options)
    return made.getvalue()


def moving(type: Type, frames: int = 3, size: tuple[int, int] = (8, 8)) -> bytes:
    first, *others = [Image.new("RGB", size, (60 * n, 255 - 60 * n, 99)) for n in range(frames)]
    made = BytesIO()
    first.save(made, type.removeprefix("image/"), save_all=True, append_images=others, duration=70, loop=0)
    return made.getvalue()


def told_all(type: Type) -> bytes:
    """Lying on its side, and saying where it was taken in every way that this type has."""
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    exif[0x010E] = WHERE.decode()
    text.add_text("comment", WHERE.decode())
    options: dict[Type, dict[str, Any]] = {
        "image/png": {"pnginfo": text, "exif": exif, "icc_profile": WHERE},
        "image/jpeg": {"exif": exif, "comment": WHERE, "icc_profile": WHERE, "quality": 95},
        "image/webp": {"exif": exif, "xmp": WHERE, "icc_profile": WHERE, "lossless": True},
        "image/gif": {"comment": WHERE},
    }
    return drawn(type, **options[type])


@pytest.mark.parametrize("type", get_args(Type))
def test_a_picture_keeps_its_pixels_upright_and_nothing_else(type: Type) -> None:
    sent = told_all(type)
    kept = made_anew(sent, type)
    assert WHERE in sent
    with Image.open(BytesIO(kept)) as image:
        assert image.format == type.removeprefix("image/").upper()
        assert not image.getexif()
        assert not {"icc_profile", "comment", "xmp", "exif", "photoshop"} & image.info.keys()
        assert not getattr(image, "text", {})
        upright = image.convert("RGB")
    turned = type != "image/gif"  # which knows no orientation
    assert upright.size == ((20, 40) if turned else (40, 20))
    for at, colour in (((2, 2), BLUE), ((18, 38) if turned else (38, 18), RED)):
        shown = upright.getpixel(at)
        assert isinstance(shown, tuple)
        assert max(abs(a - b) for a, b in zip(shown, colour, strict=True)) < 12
    assert WHERE not in kept


def told_as_text() -> bytes:
    """A PNG that lies on its side and says so in a text, as ImageMagick writes it."""
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    told = exif.tobytes()
    text.add_text("Raw profile type exif", f"\nexif\n{len(told):8}\n{told.hex()}\n")
    return drawn("image/png", pnginfo=text)


@pytest.mark.parametrize(
    ("type", "sent"),
    [("image/png", told_as_text()), *((type, told_all(type)) for type in get_args(Type) if type != "image/gif")],
    ids=["text", "png", "jpeg", "webp"],
)
def test_what_nobody_keeps_is_not_written_anew(type: Type, sent: bytes) -> None:
    """Pillow would do it in Python, which takes 10 s for 5 MB."""
    with patch.object(TiffImagePlugin.ImageFileDirectory_v2, "tobytes", side_effect=AssertionError("written")):
        kept = made_anew(sent, type)
    with Image.open(BytesIO(kept)) as image:
        assert image.size == (20, 40)


@pytest.mark.parametrize("type", ["image/gif", "image/webp"])
def test_a_moving_picture_goes_on_moving(type: Type) -> None:
    with Image.open(BytesIO(made_anew(moving(type), type))) as image:
        assert (len(list(ImageSequence.Iterator(image))), image.info["loop"]) == (3, 0)
        image.seek(1)
        image.load()
        assert image.info["duration"] == 70


@pytest.mark.parametrize("clear", [None, 0x8080])
def test_a_grey_picture_of_16_bits_keeps_its_shades(clear: int | None) -> None:
    """As scanners make them. `clear`: the shade that is seen through."""
    image, made = Image.new("I;16", (4, 1)), BytesIO()
    for x, shade in enumerate((0, 0x4040, 0x8080, 0xFFFF)):
        image.putpixel((x, 0), shade)
    image.save(made, "PNG", **({} if clear is None else {"transparency": clear}))
    with Image.open(BytesIO(made_anew(made.getvalue(), "image/png"))) as kept:
        shown = [kept.convert("RGBA").getpixel((x, 0)) for x in range(4)]
        assert not kept.info
    assert shown == [(shade, shade, shade, 0 if shade << 8 | shade == clear else 255) for shade in (0, 64, 128, 255)]


def claiming(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1_000))), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("type", "sent"),
    [
        ("image/png", b""),
        ("image/png", SVG),
        ("image/png", drawn("image/jpeg")),
        ("image/jpeg", drawn("image/png")),
        ("image/gif", b"GIF89a" + bytes(20)),
        ("image/webp", drawn("image/webp")[:40]),
        ("image/jpeg", drawn("image/jpeg", (400, 400))[:900]),
        ("image/png", drawn("image/png")[:-40]),
        ("image/png", claiming(0, 10)),
    ],
    ids=range(9),
)
def test_what_is_no_picture_of_its_type_is_refused(type: Type, sent: bytes) -> None:
    with pytest.raises(Invalid, match=f"not a {FORMATS[type]} picture"):
        made_anew(sent, type)


@pytest.mark.parametrize("size", [(5_000, 5_000), (60_000, 60_000)])
def test_what_says_that_it_is_large_is_not_decoded(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    with patch.object(PngImagePlugin.PngImageFile, "load") as decoding, pytest.raises(Invalid):
        made_anew(claiming(*size), "image/png")
    assert not decoding.called
    monkeypatch.setattr(pictures, "MOST_PIXELS", 800)
    made_anew(drawn("image/png", (40, 20)), "image/png")
    with pytest.raises(Invalid):
        made_anew(drawn("image/png", (40, 21)), "image/png")


@pytest.mark.parametrize("type", ["image/gif", "image/webp"])
def test_a_moving_picture_has_an_end(type: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_FRAMES", 3)
    made_anew(moving(type, 3), type)
    with pytest.raises(Invalid):
        made_anew(moving(type, 4), type)
    monkeypatch.setattr(pictures, "MOST_PIXELS_MOVING", 150)
    with pytest.raises(Invalid):
        made_anew(moving(type, 3), type)


MEMORY = """
import sys
from app.errors import Invalid
from app.inbox.pictures import made_anew
def most():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
before = most()
try:
    made_anew(open(sys.argv[1], "rb").read(), sys.argv[2])
except Invalid as error:
    assert "at most" in str(error)
print(most() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says so")
@pytest.mark.parametrize(("type", "frames"), [("image/gif", 2), ("image/webp", 2), ("image/webp", 1)])
def test_the_largest_pictures_fit_into_a_process(type: Type, frames: int, tmp_path: Path) -> None:
    """As many as are decoded at once, beside all else in the 1 GB that our units give to a process."""
    side, file = isqrt(min(pictures.MOST_PIXELS, pictures.MOST_PIXELS_MOVING // frames)), tmp_path / "picture"
    first, *others = [Image.effect_noise((side, side), 90 + n).convert("RGB") for n in range(frames)]
    animated = {"save_all": True, "append_images": others} if others else {}
    first.save(file, type.removeprefix("image/"), quality=5, **animated)
    told = subprocess.run([sys.executable, "-c", MEMORY, file, type], capture_output=True, text=True, check=True)
    assert pictures.DECODED_AT_ONCE * int(told.stdout) < 800 << 20


def in_parts(type: Type, parts: int) -> bytes:
    """A small picture that repeats what takes long to read: the last scan of a JPEG, the profile of a PNG."""
    if type == "image/jpeg":
        data = drawn(type, progressive=True)
        last = data.rindex(b"\xff\xda")
        return data[:-2] + data[last:-2] * (parts - data.count(b"\xff\xda")) + data[-2:]
    data = drawn(type, icc_profile=bytes(900))
    begins, ends = data.index(b"iCCP") - 4, data.index(b"IDAT") - 4
    return data[:begins] + data[begins:ends] * parts + data[ends:]


def in_texts(kind: bytes, text: bytes, texts: int) -> bytes:
    """A small PNG with so many compressed texts."""
    told = PngImagePlugin.PngInfo()
    for _ in range(texts):
        told.add(kind, text + zlib.compress(b"\xff" * 900))
    return drawn("image/png", pnginfo=told)


def told_in_pieces(pieces: int) -> bytes:
    """A JPEG whose Exif data come in so many segments."""
    data = drawn("image/jpeg")
    return data[:2] + b"\xff\xe1\0\x09Exif\0\0x" * pieces + data[2:]


@pytest.mark.parametrize(
    ("type", "made_of", "most"),
    [
        ("image/jpeg", partial(in_parts, "image/jpeg"), pictures.MOST_PARTS),
        ("image/png", partial(in_parts, "image/png"), pictures.MOST_PARTS),
        ("image/png", partial(in_texts, b"zTXt", b"\0\0"), pictures.MOST_PARTS),
        ("image/png", partial(in_texts, b"iTXt", b"comment\0\1\0\0\0"), pictures.MOST_PARTS),
        ("image/jpeg", told_in_pieces, 8),
    ],
    ids=["scans", "profiles", "texts", "international texts", "Exif"],
)
def test_what_takes_long_to_read_is_not_read(type: Type, made_of: Callable[[int], bytes], most: int) -> None:
    """A scan of a few bytes goes over all pixels: those of a large picture would take most of an hour. Of texts, Pillow
    adds up neither those without a name nor those that are no UTF-8.
    """
    made_anew(made_of(most), type)
    with patch.object(Image, "open") as reading, pytest.raises(Invalid, match="at most 200 scans"):
        made_anew(made_of(most + 1), type)
    assert not reading.called


@pytest.mark.parametrize(("type", "name"), [("image/png", "exif"), ("image/webp", "exif"), ("image/png", "text")])
def test_long_exif_data_are_not_read(type: Type, name: str) -> None:
    """Those of a JPEG come in pieces."""

    def told(length: int) -> bytes:
        if name == "exif":
            prefix = b"Exif\0\0" if type == "image/png" else b""
            return drawn(type, exif=prefix + b"II*\0".ljust(length - len(prefix), b"\0"))
        text = PngImagePlugin.PngInfo()
        text.add_text("Raw profile type exif", ("\nexif\n 10\n" + b"Exif\0\0II*\0".hex()).ljust(length, "0"))
        return drawn(type, pnginfo=text)

    made_anew(told(pictures.MOST_EXIF), type)
    with patch.object(Image.Exif, "load") as reading, pytest.raises(Invalid, match="512 KiB of Exif data"):
        made_anew(told(pictures.MOST_EXIF + 2), type)
    assert not reading.called


class Album:
    """Pictures of some people, by name."""

    def __init__(self, world: World) -> None:
        self.world, self.ids = world, world.ids
        self.conversations, self.messages = Conversations(world.stack), Messages(world.stack)
        self.pictures = Pictures(world.stack)

    async def upload(self, who: str, data: bytes | None = None, type: Type = "image/png") -> ObjectId:
        data = data or drawn(type)
        address, upload = await self.pictures.address(self.ids[who], type, len(data))
        await self.pictures.take(await self.pictures.admitted(address), body(data))
        return upload.id

    async def seen(self, id: ObjectId) -> list[str]:
        """By whom it is."""
        found = []
        for name in self.ids:
            try:
                found += [name] if (await self.pictures.picture(self.ids[name], id)).data else []
            except NotFound:
                continue
        return found


async def body(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.fixture
async def album(world: World) -> Album:
    await world.sign_up("ann", "ben", "cat")
    return Album(world)


async def test_a_picture_is_sent_once_and_seen_by_the_two(album: Album) -> None:
    conversations, messages, (ann, ben, cat) = album.conversations, album.messages, album.ids.values()
    talk, _ = await conversations.open(ann, ben)
    other, _ = await conversations.open(ann, cat)
    picture = await album.upload("ann")
    assert await album.seen(picture) == ["ann"]
    for not_yours in (picture, ObjectId()):
        with pytest.raises(Invalid):
            await messages.send(ben, talk.id, "1", "mine", not_yours)
    sent, _ = await messages.send(ann, talk.id, "1", None, picture)
    assert (sent.seq, sent.image) == (1, picture)
    assert await messages.send(ann, talk.id, "1", None, picture) == (sent, False), "also again"
    for where, client_id in ((talk.id, "2"), (other.id, "1")):
        with pytest.raises(Invalid):
            await messages.send(ann, where, client_id, None, picture)
    assert await album.seen(picture) == ["ann", "ben"]
    await album.world.relations.block(ben, ann)
    assert await album.seen(picture) == ["ann", "ben"], "history stays"
    await messages.delete(ann, talk.id, 1)
    assert await album.seen(picture) == []
    again, created = await messages.send(ann, talk.id, "1", None, picture)
    assert (again.seq, again.image, created) == (1, None, False)
    with pytest.raises(Conflict):
        await messages.send(ann, talk.id, "1", "a text", None)
    stored = await album.world.stack.db[IMAGES].find_one({"_id": picture})
    assert "data" not in (stored or {})


async def test_what_has_a_place_is_stored_once_it_is_there(album: Album) -> None:
    """As a picture is that comes in a form."""
    data, ann = drawn("image/png"), album.ids["ann"]

    async def form() -> bytes:
        return data

    with album.pictures.arriving.place(ann, pictures.LARGEST) as place:
        _, upload = await album.pictures.address(ann, "image/png", len(data))
        arrived = await place.passage(form())
        await album.pictures.store(upload, arrived)
        with pytest.raises(Conflict):
            await album.pictures.store(upload, arrived)
        with pytest.raises(Invalid):
            await album.pictures.store(upload, data[:-40])
    assert await album.seen(upload.id) == ["ann"]


async def test_two_messages_at_once_want_the_same_picture(album: Album) -> None:
    ann, ben, cat = album.ids.values()
    places = [(await album.conversations.open(ann, other))[0].id for other in (ben, cat)]
    picture = await album.upload("ann")
    sending = (album.messages.send(ann, place, "1", None, picture) for place in places)
    first, second = await asyncio.gather(*sending, return_exceptions=True)
    assert sorted([isinstance(first, Invalid), isinstance(second, Invalid)]) == [False, True]
    seqs = [(await album.messages.page(ann, place, None, 20))[0] for place in places]
    assert sorted(map(len, seqs)) == [0, 1]
    assert len(await album.seen(picture)) == 2


async def test_an_address_takes_one_picture_for_ten_minutes(album: Album) -> None:
    data = drawn("image/png")
    address, upload = await album.pictures.address(album.ids["ann"], "image/png", len(data))
    elsewhere = Pictures(album.world.stack)  # on another process
    for wrong in (data[:-1], data + b"x", b"x" * len(data)):
        with pytest.raises(Invalid):
            await elsewhere.take(await elsewhere.admitted(address), body(wrong))
    forged = address[:20] + ("A" if address[20] != "A" else "B") + address[21:]
    assert len(address) % 4 == 3, "so the last letter has two bits that say nothing"
    last = LETTERS[LETTERS.index(address[-1]) | 1]
    alike = [f"{address[:9]}{foreign}{address[9:]}" for foreign in "!.~ =%\n"]
    alike += [address + "=", address[:-1] + last, address + "A"]
    for unknown in (forged, address[:-1], "", "é", address[::-1], *alike):
        with pytest.raises(NotFound):
            await album.pictures.admitted(unknown)
    taking = [process.take(upload, body(data[:9], data[9:])) for process in (album.pictures, elsewhere)]
    outcomes = await asyncio.gather(*taking, return_exceptions=True)
    assert sorted(isinstance(outcome, Conflict) for outcome in outcomes) == [False, True]
    with pytest.raises(Conflict):
        await elsewhere.admitted(address)
    fresh, _ = await album.pictures.address(album.ids["ann"], "image/png", 1)
    album.world.clock.advance(ADDRESS_S + 1)
    with pytest.raises(NotFound):
        await album.pictures.admitted(fresh)


async def test_what_nobody_sent_is_gone_after_a_day(album: Album) -> None:
    ann, ben, _ = album.ids.values()
    talk, _ = await album.conversations.open(ann, ben)
    sent, kept = await album.upload("ann"), await album.upload("ann")
    await album.messages.send(ann, talk.id, "1", None, sent)
    images = album.world.stack.db[IMAGES]
    until = {row["_id"]: row.get("until") for row in await images.find().to_list(None)}
    assert until == {sent: None, kept: album.world.clock.now() + UNSENT}
    album.world.clock.advance(UNSENT.total_seconds())
    with pytest.raises(Invalid):  # MongoDB comes by once a minute
        await album.messages.send(ann, talk.id, "2", None, kept)
    if is_stand_in(album.world.stack.db):
        await images.update_one({"_id": kept}, {"$set": {"until": NOON - UNSENT}})
        assert await album.seen(kept) == []
    else:
        indexes = (await images.index_information()).values()
        assert [index["expireAfterSeconds"] for index in indexes if index["key"] == [("until", 1)]] == [0]


async def test_what_was_not_sent_goes_with_the_account(album: Album) -> None:
    """And an address that was given out takes nothing any more."""
    ann, ben, _ = album.ids.values()
    talk, _ = await album.conversations.open(ann, ben)
    sent = await album.upload("ann")
    await album.messages.send(ann, talk.id, "1", None, sent)
    others = await album.upload("ben")
    await album.upload("ann")
    address, _ = await album.pictures.address(ann, "image/png", 1)
    await album.pictures.admitted(address)
    await depart(album.world.stack.db, album.world.clock, ann)
    with pytest.raises(NotFound):
        await album.pictures.admitted(address)
    await cleared(album.world)
    left = await album.world.stack.db[IMAGES].find({}, {"_id": 1}).to_list(None)
    assert {row["_id"] for row in left} == {sent, others}


async def test_a_conversation_goes_with_the_last_of_the_two(album: Album) -> None:
    """With what was said and its pictures. One in which nothing was said goes with whoever began it."""
    conversations, messages, world = album.conversations, album.messages, album.world
    ann, ben, cat = album.ids.values()
    talk, _ = await conversations.open(ann, ben)
    for n in range(3):
        who = ("ann", "ben")[n % 2]
        await messages.send(album.ids[who], talk.id, str(n), "hello", await album.upload(who))
    await conversations.open(ann, cat)
    kept, _ = await conversations.open(cat, ann)
    assert kept.last is None
    other, _ = await conversations.open(ben, cat)
    await messages.send(ben, other.id, "1", "for cat")
    await world.relations.block(ann, ben)
    await depart(world.stack.db, world.clock, ann)
    await cleared(world)
    assert len((await messages.page(ben, talk.id, None, 20))[0]) == 3
    assert [one.id for one in (await conversations.page(ben, None, 20))[0]] == [other.id, talk.id]
    await depart(world.stack.db, world.clock, ben)
    await cleared(world)
    left = await world.dump()
    assert [[row["_id"] for row in left[name]] for name in ("conversations", "images")] == [[other.id], []]
    assert [row["conversation"] for row in left["messages"]] == [other.id]
    assert [message.text for message in (await messages.page(cat, other.id, None, 20))[0]] == ["for cat"]


async def test_only_so_many_arrive_at_once(album: Album) -> None:
    album.pictures.arriving.each = pictures.LARGEST
    arrived = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        await arrived.wait()
        yield data

    data = drawn("image/png")
    uploads = [
        (await album.pictures.address(album.ids[who], "image/png", len(data)))[1] for who in ("ann", "ann", "ben")
    ]
    waiting = asyncio.create_task(album.pictures.take(uploads[0], slow()))
    await asyncio.sleep(0)
    with pytest.raises(TooMany):
        await album.pictures.take(uploads[1], body(data))
    await album.pictures.take(uploads[2], body(data))
    album.pictures.arriving.most = pictures.LARGEST
    with pytest.raises(TooMany):
        await album.pictures.take(uploads[2], body(data))
    arrived.set()
    await waiting
    await album.pictures.take(uploads[1], body(data))


async def test_who_sends_slowly_makes_room(album: Album) -> None:
    """The first of them, once the largest picture would be there at the slowest pace, and for one who has room."""
    album.pictures.arriving.most = 2 * pictures.LARGEST
    may_end, data = asyncio.Event(), drawn("image/png")

    async def slow() -> AsyncIterator[bytes]:
        yield data[:9]
        await may_end.wait()
        yield data[9:]

    first, second, third = [
        (await album.pictures.address(album.ids[who], "image/png", len(data)))[1] for who in ("ann", "ben", "cat")
    ]
    arriving = [asyncio.create_task(album.pictures.take(each, slow())) for each in (first, second)]
    await asyncio.sleep(0)
    with pytest.raises(TooMany):
        await album.pictures.take(third, body(data))
    album.pictures.arriving.slowest = pictures.LARGEST * 100
    await asyncio.sleep(0.1)
    await album.pictures.take(third, body(data))
    with pytest.raises(TooMany, match="took long"):
        await arriving[0]
    may_end.set()
    await arriving[1]
    await album.pictures.take(first, body(data))


async def test_what_has_arrived_makes_no_room(album: Album) -> None:
    """It waits to be decoded."""
    album.pictures.arriving.most, album.pictures.arriving.slowest = pictures.LARGEST, pictures.LARGEST * 100
    data, decoding = drawn("image/png"), album.pictures._decoding
    first, second = [
        (await album.pictures.address(album.ids[who], "image/png", len(data)))[1] for who in ("ann", "ben")
    ]
    for _ in range(pictures.DECODED_AT_ONCE):
        await decoding.acquire()
    arrived = asyncio.create_task(album.pictures.take(first, body(data)))

    async def waits() -> bool:
        return bool(decoding._waiters)

    await eventually(waits)
    await asyncio.sleep(0.1)  # longer than it may take to arrive
    with pytest.raises(TooMany):
        await album.pictures.take(second, body(data))
    for _ in range(pictures.DECODED_AT_ONCE):
        decoding.release()
    await arrived
    await album.pictures.take(second, body(data))
