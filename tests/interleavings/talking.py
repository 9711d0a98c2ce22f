"""Races in conversations: Ann and Zoe have one, in which Zoe has said one thing that Ann has not read."""

from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from bson import ObjectId

from app.departures import clear_departures, depart
from app.errors import Forbidden, Invalid, NotFound
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.pictures import IMAGES, UNSENT
from app.stack import Stack
from tests.interleavings.scheduler import ACTOR, Schedule
from tests.interleavings.stage import Act, Process, Race, Town, in_turn

PICTURE = ObjectId(b"pictureofann")
_at_the_end: WeakKeyDictionary[Schedule, int] = WeakKeyDictionary()  # messages there were when it was acknowledged


async def nobody_talks(town: Town) -> None:
    await town.deliver_only()
    await town.sign_up("ann", "zoe")


async def talk(town: Town) -> None:
    await nobody_talks(town)
    found, _ = await Conversations(town.stack).open(town.ids["ann"], town.ids["zoe"])
    await Messages(town.stack).send(town.ids["zoe"], found.id, "first", "hello")


def _with(use_case: Callable[[Stack, ObjectId, ObjectId], Awaitable[object]], who: str) -> Act:
    async def act(process: Process) -> None:
        (row,) = process.town.rows("conversations")
        await use_case(process.town.stack, process.ids[who], row["_id"])

    return act


def send(who: str, client_id: str = "new") -> Act:
    sending = _with(lambda stack, me, id: Messages(stack).send(me, id, client_id, "hello"), who)

    async def unless_ended(process: Process) -> None:
        await sending(process)
        _no_more_than_at_the_end(process.town)

    return unless_ended


def receive(who: str, read: int) -> Act:
    return _with(lambda stack, me, id: Messages(stack).receive(me, id, None, read), who)


def delete(who: str) -> Act:
    return _with(lambda stack, me, id: Messages(stack).delete(me, id, 1), who)


def silence(who: str, on: bool) -> Act:
    return _with(lambda stack, me, id: Conversations(stack).silence(me, id, on), who)


def open_with(other: str, me: str = "ann") -> Act:
    async def opening(process: Process) -> None:
        await Conversations(process.town.stack).open(process.ids[me], process.ids[other])

    return opening


async def block(process: Process) -> None:
    """From the moment that Zoe knows it, nothing is said any more."""
    await process.relations.block(process.ids["zoe"], process.ids["ann"])
    _it_ends(process.town)


def leave(who: str, *, cleared: bool = True) -> Act:
    """From the moment that their account is deleted, likewise, also while what it leaves is cleared away."""

    async def leaving(process: Process) -> None:
        db, clock = process.town.stack.db, process.town.clock
        await depart(db, clock, process.ids[who])
        _it_ends(process.town)
        if cleared:
            await clear_departures(db, clock, process.town.stack.bus)

    return leaving


def _it_ends(town: Town) -> None:
    actor = ACTOR.get()
    assert actor
    _at_the_end[actor.schedule] = len(town.rows("messages"))


def _no_more_than_at_the_end(town: Town) -> None:
    actor = ACTOR.get()
    assert actor
    there = len(town.rows("messages"))
    assert there <= _at_the_end.get(actor.schedule, there), "something is said across a block, or to nobody"


def all_is_counted(town: Town) -> None:
    """Numbers without gaps, each client's id once, and what is counted is what a count of everything gives."""
    conversations = town.rows("conversations")
    left = {row["_id"] for row in town.rows("users") if row.get("deleted")}  # whose badges are taken away by and by
    assert len({row["pair"] for row in conversations}) == len(conversations), "two people have two conversations"
    for row in conversations:
        messages = sorted((m for m in town.rows("messages") if m["conversation"] == row["_id"]), key=lambda m: m["_id"])
        seqs = [int.from_bytes(message["_id"][12:], "big") for message in messages]
        assert seqs == list(range(1, row["seq"] + 1)), f"numbers {seqs}, and the last is said to be {row['seq']}"
        ids = [(message["who"], message["client_id"]) for message in messages]
        assert len(set(ids)) == len(ids), "a message is stored twice"
        for person in row["people"]:
            marks = row["marks"][str(person)]
            theirs = [seq for seq, message in zip(seqs, messages, strict=True) if message["who"] != person]
            counted = sum(seq <= marks["read"] for seq in theirs)
            assert marks["counted"] == counted, f"{marks['counted']} of {counted} messages are counted as read"
            assert marks["sent"] == len(seqs) - len(theirs), "what somebody sent is counted wrongly"
            has_badge = counted < len(theirs) and person not in left
            assert (person in row["unread"]) in (has_badge, counted < len(theirs)), "a badge is wrong"


async def two_talks(town: Town) -> None:
    """Ann has one with Ben too, and one picture that she has not sent yet."""
    await talk(town)
    await town.sign_up("ben")
    ann = town.ids["ann"]
    await Conversations(town.stack).open(ann, town.ids["ben"])
    picture = {"_id": PICTURE, "owner": ann, "type": "image/png", "data": b"picture", "readers": [ann]}
    await town.stack.db[IMAGES].insert_one({**picture, "until": town.clock.now() + UNSENT})


def send_picture(other: str, client_id: str) -> Act:
    async def sending(process: Process) -> None:
        ann, town = process.ids["ann"], process.town
        (id,) = (row["_id"] for row in town.rows("conversations") if process.ids[other] in row["people"])
        await Messages(town.stack).send(ann, id, client_id, None, PICTURE)

    return sending


def a_picture_is_in_one_message(town: Town) -> None:
    all_is_counted(town)
    (picture,) = town.rows(IMAGES)
    shown = [row["conversation"] for row in town.rows("messages") if row.get("image") == PICTURE]
    readers = [sorted(row["people"]) for row in town.rows("conversations") if row["_id"] in shown]
    assert len(shown) <= 1, "a picture is sent twice"
    assert [sorted(picture["readers"])] == (readers or [[town.ids["ann"]]]), "others see it than whom it was sent to"
    assert ("until" in picture) == (not shown), "a picture goes that was sent, or stays that was not"


def _race(
    name: str,
    actors: dict[str, Act],
    crashing: tuple[str, ...] = (),
    setting: object = talk,
    after: Callable[[Town], None] = all_is_counted,
) -> Race:
    allowed = (Forbidden, NotFound, Invalid)
    return Race(name, setting, actors, crashing, (), allowed, after)  # type: ignore[arg-type]


TALKING: tuple[Race, ...] = (
    _race("send x send", {"ann": send("ann"), "zoe": send("zoe")}, ("ann", "zoe")),
    _race("send x the same send", {"ann": send("ann"), "ann2": in_turn(send("ann"), send("ann", "more"))}, ("ann",)),
    _race("send x block", {"ann": in_turn(send("ann"), send("ann", "more")), "zoe": block}, ("ann",)),
    _race("send x deletion of whom it goes to", {"ann": send("ann"), "zoe": leave("zoe")}),
    _race("send x deletion of whom it is by", {"ann": send("ann"), "ann2": leave("ann", cleared=False)}),
    *(
        _race(
            f"picture x the same picture, {words}",
            {"ann": send_picture("zoe", "1"), "ann2": in_turn(send_picture(other, "2"), send_picture(other, "2"))},
            ("ann",),
            two_talks,
            a_picture_is_in_one_message,
        )
        for words, other in (("to another", "ben"), ("again", "zoe"))
    ),
    _race("receipt x send", {"ann": receive("ann", 1), "zoe": send("zoe")}, ("ann", "zoe")),
    _race("receipt x receipt x send", {"ann": receive("ann", 1), "ann2": in_turn(send("ann"), receive("ann", 2))}),
    _race("receipt x block", {"ann": receive("ann", 1), "zoe": block}, ("ann",)),
    _race("delete x delete", {"zoe": delete("zoe"), "zoe2": delete("zoe"), "ann": receive("ann", 1)}, ("zoe",)),
    _race("silence x send", {"ann": in_turn(silence("ann", True), silence("ann", False)), "zoe": send("zoe")}),
    _race(
        "talk x talk, both begin",
        {"ann": in_turn(open_with("zoe"), send("ann")), "zoe": in_turn(open_with("ann", "zoe"), send("zoe"))},
        ("ann",),
        nobody_talks,
    ),
    _race("talk x block", {"ann": in_turn(open_with("zoe"), send("ann")), "zoe": block}, ("ann", "zoe"), nobody_talks),
)
