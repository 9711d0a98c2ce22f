"""The races. Each is two or three people and processes that meet over one timeline."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

from bson import Binary, ObjectId

from app.accounts import TOKENS_EACH, Accounts, digest_of
from app.departures import clear_departures, depart, take_likes_back
from app.edges import change_tokens, followees_of
from app.errors import Conflict, Forbidden, NotFound, WrongPassword
from app.inbox.notifications import Notifications
from app.inbox.notifier import INBOXES, Notifier
from app.models import Account, Audience
from app.stack.mongodb.find import rows
from phases.base import Phase
from phases.delivering.backlog import LATE_S
from phases.delivering.kept_timelines import KeptTimelines
from phases.delivering.settings import Settings, SettingsChange
from phases.keeping.entries import Entries
from phases.keeping.in_memory import RENEW_AFTER
from phases.keeping.lists import key
from phases.p2_push import PUSH
from phases.p3_queue import QUEUE
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from phases.p6_hybrid import HYBRID
from phases.pulling.heavy import HEAVY
from tests.dates import ManualClock
from tests.interleavings.listening import LISTENING
from tests.interleavings.scheduler import Touch, point
from tests.interleavings.stage import Act, Process, Race, Town, in_turn
from tests.interleavings.talking import TALKING
from tests.world import IN_WORKER, KEEPING
from workers.sweeper import sweep
from workers.tailer import LEASE_S, LeaseLost, StreamLease

Setting = Callable[[Town], Awaitable[None]]
Ann = Literal["new", "cold", "warm"]
TOKEN = "of ann"


def town(
    *phases: str,
    old: int = 2,
    waiting: int = 0,
    ann: Ann = "warm",
    audience: Audience = "followers",
    fans: tuple[str, ...] = (),
) -> Setting:
    """Ann follows Zoe, and so do her other fans; these phases deliver.

    `old` statuses of Zoe's and one of Yan's, whom nobody follows, are older than anything that is kept; `waiting` ones
    have jobs. Ann is new, or a timeline is kept for her ("warm"), or was until just now ("cold").

    What Zoe writes is pulled by phase 6, so that nothing of hers has a job there. What it delivers it delivers as
    phase 4.
    """

    async def setting(town: Town) -> None:
        await town.deliver_only(*phases)
        await town.sign_up("ann", "zoe", "yan", *fans)
        if HYBRID.slug in phases:
            await force("zoe", True)(Process(town))
        for name in ("ann", *fans):
            await town.follow(name, "zoe")
        await town.post("yan", "by yan")
        for n in range(old):
            await town.post("zoe", f"old {n}", audience)
        await town.drain()
        await town.timelines.restart()
        town.pass_grace()
        for n in range(waiting):
            await town.post("zoe", f"waiting {n}", audience)
        if ann != "new":
            await town.warm("ann")
        if ann == "cold":
            await town.chill("ann")

    return setting


def then(first: Setting, more: Setting) -> Setting:
    async def setting(town: Town) -> None:
        await first(town)
        await more(town)

    return setting


# What people do


def publish(audience: Audience = "followers") -> Act:
    async def publishing(process: Process) -> None:
        await process.post("zoe", "new", audience)
        await process.work()

    return publishing


async def publish_late(process: Process) -> None:
    """From a process whose clock is ten seconds behind."""
    process.statuses._clock = ManualClock(process.town.clock.now() - timedelta(seconds=10))
    status = await process.post("zoe", "late")
    await point("it is acknowledged", Touch("acknowledged", write=True))
    process.town.acknowledged.add(status)


def read_acknowledged(phase: str) -> Act:
    """The page has what was acknowledged before it was asked for."""

    async def reading(process: Process) -> None:
        await point("a read begins", Touch("acknowledged"))
        before = set(process.town.acknowledged)
        page = await process.timelines.page(process.ids["ann"], phase=phase)
        missing = before - {status.id for status in page.statuses}
        assert not missing, f"ann in {phase} ({page.source}) misses {process.town.texts(missing)}"

    return reading


async def rest(town: Town) -> None:
    town.clock.advance(LATE_S + 1)


def read(phase: str, reader: str = "ann", limit: int = 20) -> Act:
    return lambda process: process.read(reader, phase, limit)


def show(phase: str, reader: str) -> Act:
    """A page before the race."""

    async def showing(process: Process) -> None:
        await process.timelines.page(process.ids[reader], phase=phase)

    return showing


def refresh(phase: str) -> Act:
    async def refreshing(process: Process) -> None:
        await process.timelines.refresh(process.ids["ann"], phase=phase)

    return refreshing


def at_once(*acts: Act) -> Act:
    async def side_by_side(process: Process) -> None:
        await asyncio.gather(*(act(process) for act in acts))

    return side_by_side


def named(phase: str) -> Act:
    return lambda process: process.read_names("ann", phase)


def rename(name: str) -> Act:
    return lambda process: process.people.rename(Account(process.ids["zoe"], "zoe"), name)


def follow(followee: str = "zoe", reader: str = "ann") -> Act:
    return lambda process: process.follow(reader, followee)


def unfollow(followee: str = "zoe") -> Act:
    return lambda process: process.unfollow("ann", followee)


def edge(verb: str, one: str, other: str) -> Act:
    async def changing(process: Process) -> None:
        await getattr(process.relations, verb)(process.ids[one], process.ids[other])

    return changing


def about(verb: str, reader: str, text: str) -> Act:
    """What somebody does to the status with this text, which need not be there any more."""

    async def changing(process: Process) -> None:
        id = next(row["_id"] for row in process.town.saved[0]["statuses"].values() if row.get("text") == text)
        await getattr(process.statuses, verb)(process.ids[reader], id)

    return changing


def delete(text: str) -> Act:
    return about("delete", "zoe", text)


def leaves(person: str) -> Act:
    """Deletes their account."""

    async def leaving(process: Process) -> None:
        await depart(process.town.stack.db, process.town.clock, process.ids[person])
        await take_likes_back(process.town.stack, process.ids[person])

    return leaving


async def clearing(process: Process) -> None:
    """A round clears away what deleted accounts have left."""
    await clear_departures(process.town.stack.db, process.town.clock, process.town.stack.bus)


like, unlike = partial(about, "like"), partial(about, "unlike")


async def work(process: Process) -> None:
    await process.work()


async def sweeping(process: Process) -> None:
    await sweep(process.timelines)
    await process.work()


def force(author: str, pulled: bool | None) -> Act:
    """From the next post of this process on: others act on older settings for a while."""

    async def forcing(process: Process) -> None:
        await process.timelines.force(process.ids[author], pulled)

    return forcing


async def sweep_markers(process: Process) -> None:
    await process.timelines.pulls.sweep()


def passes(seconds: float) -> Act:
    async def passing(process: Process) -> None:
        await point(f"{seconds} s pass", everything=True)
        process.town.clock.advance(seconds)

    return passing


def sleeps(seconds: float) -> Act:
    """The machine, and Memcached's clock with it."""

    async def sleeping(process: Process) -> None:
        await point(f"{seconds} s of sleep", everything=True)
        process.town.clock.sleep(seconds)

    return sleeping


def kept_by(process: Process, phase: Phase) -> KeptTimelines:
    kept = process.timelines.kept_by(phase.slug)
    assert kept
    return kept


async def mark_active(process: Process) -> None:
    """As much of another read as matters to others who read at the same time."""
    stack, ann = process.town.stack, process.ids["ann"]
    followees = [edge["followee"] for edge in await rows(stack.db, followees_of(ann))]
    await kept_by(process, CACHE).recipients.admit(ann, followees)


async def sweep_active(process: Process) -> None:
    await kept_by(process, CACHE).recipients.sweep()


async def send_everybody_away(process: Process) -> None:
    async def rest(seconds: float) -> None:
        await passes(seconds)(process)

    await process.timelines.send_away(1.0, rest)
    await rest(process.town.stack.config.grace_s + 2)  # until the new lists are read


async def beat(process: Process) -> None:
    await process.timelines.switch.beat()


async def evict(process: Process) -> None:
    container = (await process.timelines.switch.current()).current(kept_by(process, CACHE).name)
    assert container
    await process.town.stack.memcached.delete(key(container, process.ids["ann"]))


async def evict_set(process: Process) -> None:
    container = (await process.timelines.switch.current()).current(kept_by(process, STREAM).name)
    assert container
    await process.town.stack.sets.forget(container.name, process.ids["ann"])


# Who follows the change stream


def takes_the_lease(place: str, *, waits: bool = False) -> Act:
    """And notes a place in the stream. `waits`: first it sees the same for so long that the owner must be gone."""

    async def taking(process: Process) -> None:
        lease = StreamLease(process.town.stack, place)
        taken = await lease.take()
        if waits:
            await passes(LEASE_S + 1)(process)
            taken = await lease.take()
        if taken:
            await lease.renew({"_data": place})

    return taking


async def wakes_up(process: Process) -> None:
    """The first owner, who has heard of nothing."""
    lease = StreamLease(process.town.stack, "old")
    lease.fence = 1
    with suppress(LeaseLost):
        for place in ("old", "older"):
            await lease.renew({"_data": place})


async def released(town: Town) -> None:
    lease = StreamLease(town.stack, "old")
    assert await lease.take()
    await lease.release(idle=True)


async def owned(town: Town) -> None:
    assert await StreamLease(town.stack, "old").take()


def one_has_taken_it(town: Town) -> None:
    [lease] = [row for row in town.rows("settings") if row["_id"] == "stream"]
    assert lease["fence"] == 2, "two have taken the same lease"
    assert lease["place"] == {"_data": lease["owner"]}


def nobody_notes_a_place_but_the_owner(town: Town) -> None:
    [lease] = [row for row in town.rows("settings") if row["_id"] == "stream"]
    assert lease["owner"] in ("old", "new")
    assert lease["owner"] == "old" or lease["place"] == {"_data": "new"}, "an old owner has put it back"


async def cut(process: Process) -> None:
    kept = kept_by(process, QUEUE)
    container = (await process.timelines.switch.current()).current(kept.name)
    assert container
    assert isinstance(kept.store, Entries)
    await kept.store.cut(container, process.ids["ann"])


def switch(*phases: str) -> Act:
    async def switching(process: Process) -> None:
        await process.timelines.switch.change(SettingsChange(delivering=phases))

    return switching


def slowly(act: Act, seconds: float) -> Act:
    """The first write of phase settings is so long under way."""

    async def acting(process: Process) -> None:
        switch, late_s = process.timelines.switch, [seconds]
        swap = switch._swap

        async def late(old: Settings, new: Settings) -> bool:
            if late_s:
                await passes(late_s.pop())(process)
            return await swap(old, new)

        with patch.object(switch, "_swap", late):
            await act(process)

    return acting


async def newest_settings(process: Process) -> None:
    process.timelines.switch._copy = None


async def restart(process: Process) -> None:
    """Whatever else is switched meanwhile: nothing that was kept before is read again."""
    before = (await process.timelines.switch.fresh()).containers
    await process.timelines.restart()
    after = (await process.timelines.switch.fresh()).containers
    assert not {c.since for c in before} & {c.since for c in after if c.until is None}, "begun anew, and still there"


# Settings of their own


async def renewal_is_due(town: Town) -> None:
    town.clock.advance(town.stack.config.timeline_ttl_s * (RENEW_AFTER + 0.1))


async def surplus(town: Town) -> None:
    """What is kept for Ann is longer than it should be, and half of it is by somebody whom she has left."""
    await town.follow("ann", "yan")
    for n in range(3):
        await town.post("zoe", f"surplus {n}")
        await town.post("yan", f"unwanted {n}")
    await town.drain()
    await Process(town).unfollow("ann", "yan")


async def cut_before(town: Town) -> None:
    """Surplus that a first cut has put below the floor."""
    await surplus(town)
    await cut(Process(town))
    await town.post("zoe", "since")
    await town.post("zoe", "since then")
    await town.drain()


async def away(town: Town) -> None:
    """Nobody delivers to Ann any more."""
    config = town.stack.config
    town.clock.advance(config.timeline_ttl_s + config.activity_slack_s + 1)


async def slept(town: Town) -> None:
    """Nobody delivers to Ann any more, and Memcached has her list all the same."""
    config = town.stack.config
    town.clock.sleep(config.timeline_ttl_s + config.activity_slack_s + 1)


async def restored(town: Town) -> None:
    """From a backup of when Ann was away: nobody delivers to her, and Memcached has a list of hers."""
    await away(town)
    backup, *_ = town.save()
    await town.warm("ann")
    await beat(Process(town))
    _, *since = town.save()
    town.restore((backup, *since))
    await town.post("zoe", "since")
    await town.drain()


def forced(pulled: bool | None) -> Setting:
    async def setting(town: Town) -> None:
        await force("zoe", pulled)(Process(town))

    return setting


async def unmarked(town: Town) -> None:
    """As if nothing had ever been pulled."""
    town._collections[HEAVY]._documents.clear()
    await town.stack.db["statuses"].update_many({}, {"$unset": {"pulled": ""}})
    await town.timelines.restart()
    town.pass_grace()
    await town.warm("ann")


async def nearly_swept(town: Town) -> None:
    """Zoe's marker goes with the next sweep, and her followers have a list that has just been renewed."""
    config = town.stack.config
    town.clock.advance(2 * config.activity_slack_s)
    await town.timelines.pulls.sweep()
    town.clock.advance(config.timeline_ttl_s + 4 * config.activity_slack_s)
    await town.warm("ann")


KNOWING = (("remembers her", "ann"), ("has shown others the same", "ben"))
LETTING_IN: tuple[tuple[str, str, Audience], ...] = (
    ("follow back", "follow", "mutuals"),
    ("add to circle", "add_to_circle", "circle"),
)
LATE = (
    ("mute, publish", in_turn(edge("mute", "ann", "zoe"), publish())),
    ("unfollow, publish to mutuals", in_turn(edge("unfollow", "zoe", "ann"), publish("mutuals"))),
)


async def mutual(town: Town) -> None:
    """Zoe follows back, and has written for those whom she follows."""
    for fan in ("ann", "ben"):
        await town.follow("zoe", fan)
    await town.post("zoe", "to mutuals", "mutuals")
    await town.drain()


def secret(audience: Audience) -> Setting:
    """A status of Zoe's, delivered by every phase, that Ann is not let in to."""

    async def setting(town: Town) -> None:
        await force("zoe", False)(Process(town))
        await town.post("zoe", "secret", audience)
        await town.drain()
        await town.chill("ann")
        await town.warm("ann")

    return setting


async def muted(town: Town) -> None:
    await town.relations.mute(town.ids["ann"], town.ids["zoe"])


async def liked(town: Town) -> None:
    """By Ann and Ben."""
    [status] = [row["_id"] for row in town.rows("statuses") if row["text"] == "old 1"]
    for reader in ("ann", "ben"):
        await town.statuses.like(town.ids[reader], status)


def told(setting: Setting) -> Setting:
    """Notifications are a consumer, and what the setting has told of is told."""

    async def telling(town: Town) -> None:
        town.notifies = True
        town.timelines.outbox.add(Notifier(town.stack, town.timelines.outbox))
        await setting(town)
        await town.drain()

    return telling


async def mention_waits(town: Town) -> None:
    await town.post("zoe", "hello @ben @ann")


async def marks_read(process: Process) -> None:
    """Whatever there is, and not what will be."""
    await Notifications(process.town.stack).mark_read(process.ids["ann"], 99)


def only_what_is_there_is_read(town: Town) -> None:
    for inbox in town.rows(INBOXES):
        assert inbox.get("read_to", 0) <= inbox.get("seq", 0), "the next notification is read before it is there"


async def told_twice(process: Process) -> None:
    """Every job that waits is done by somebody who knows nothing of others."""
    for consumer, happened, after in list(process.town.queue.waiting.values()):
        await process.timelines.outbox.consumers[consumer].handle(happened, after)


async def overdue(town: Town) -> None:
    town.clock.advance(60)


async def lost(town: Town) -> None:
    town.queue.waiting.clear()
    await overdue(town)


async def _once(process: Process, phase: str = CACHE.slug) -> None:
    await process.post("zoe", "once", key="k")
    await process.read("ann", phase)
    statuses = [row for row in process.town.rows("statuses") if row["text"] == "once"]
    assert len(statuses) == 1, "posted twice"


def ann_follows_yan(town: Town) -> None:
    pairs = [(row["follower"], row["followee"]) for row in town.rows("follows")]
    assert (town.ids["ann"], town.ids["yan"]) in pairs, "an acknowledged follow is gone"


def nothing_has_begun_anew(town: Town) -> None:
    [settings] = [row for row in town.rows("settings") if row["_id"] == "phases"]
    assert settings["containers"] == town.saved[0]["settings"]["phases"]["containers"], "there was no restore"


def memory_knows_the_last_pulse(town: Town) -> None:
    """Of those who have stopped, the last one: a backup that was made between two of them has a lower one."""
    nothing_has_begun_anew(town)
    [settings] = [row for row in town.rows("settings") if row["_id"] == "phases"]
    memcached: Any = town.stack.memcached
    kept = {name: number for name, (number, _) in town.sets._pulses.items()}
    for name, (value, *_) in memcached._items.items():
        if name.startswith("counted:"):
            kept[name.removeprefix("counted:")] = int(value)
    current = {str(row["since"]): row["kept"] for row in settings["containers"] if not row.get("until")}
    noted = {current[name]: number for name, number in kept.items() if name in current}
    counted = {kept: settings["pulses"][kept] for kept in current.values() if kept in settings["pulses"]}
    assert len(noted) == 2, "beside both"
    assert noted == counted, f"a backup of pulses {noted} would be taken for what they are beside"


def lists_have_begun_anew(town: Town) -> None:
    [settings] = [row for row in town.rows("settings") if row["_id"] == "phases"]
    assert settings["containers"] != town.saved[0]["settings"]["phases"]["containers"], "there was a restore"


async def nearly_all_tokens(town: Town) -> None:
    for n in range(TOKENS_EACH - 1):
        older = {"_id": ObjectId(n.to_bytes(12, "big")), "digest": b"%d" % n, "user_id": town.ids["ann"]}
        await town.stack.db["tokens"].insert_one(older)


async def _sign_in(process: Process) -> None:
    await Accounts(process.town.stack).new_token(process.ids["ann"])


def the_newest_tokens(town: Town) -> None:
    tokens = town.rows("tokens")
    assert len(tokens) == TOKENS_EACH, "past the limit, or below it"
    assert sum("expires_at" in token for token in tokens) == 2, "who has just signed in is signed in"


async def _signed_in(town: Town) -> None:
    expires_at = town.clock.now() + timedelta(days=1)
    token = {"_id": ObjectId(), "digest": Binary(digest_of(TOKEN)), "user_id": town.ids["ann"]}
    await town.stack.db["tokens"].insert_one({**token, "expires_at": expires_at})
    await change_tokens(town.stack.db, town.ids["ann"], lambda inside: asyncio.sleep(0))


def token_race(name: str, end: Act) -> Race:
    """A race of requests with a token and the end of it: no process takes it for one afterwards."""
    asked: Accounts

    def begun(town: Town) -> None:
        nonlocal asked
        asked = Accounts(town.stack)

    async def asks(process: Process) -> None:
        await asked.authenticate(TOKEN)

    async def none_is_left(town: Town) -> None:
        assert await asked.authenticate(TOKEN) is None, "a token is one after its end"

    actors = {"ann": end, "ann2": in_turn(asks, asks, asks)}
    return Race(name, then(town("push"), _signed_in), actors, begun=begun, ended=none_is_left)


async def _sign_out(process: Process) -> None:
    await Accounts(process.town.stack).sign_out(TOKEN)


def nobody_is_signed_in(town: Town) -> None:
    assert not town.rows("tokens"), "a token has outlived its account"


def ann_follows_two(town: Town) -> None:
    followees = [row for row in town.rows("follows") if row["follower"] == town.ids["ann"]]
    assert len(followees) == 2, "past the limit"


def and_dying(race: Race) -> Iterator[Race]:
    """While nobody dies its orders are few; with every place to die at, it is one for `make prove`."""
    yield replace(race, crashing=())
    yield replace(race, name=f"{race.name}, dying", fast=False)


RACES: tuple[Race, ...] = (
    # publish x return
    *(
        Race(
            f"publish x return, {p}",
            town(p, ann="new", fans=("ben",)),
            {"zoe": publish(), "ann": read(p)},
            ("zoe", "ann"),
            fast=p == "cache",
        )
        for p in KEEPING
    ),
    *(Race(f"publish x read, {p}", town(p), {"zoe": publish(), "ann": read(p)}, ("zoe",)) for p in IN_WORKER),
    *(
        Race(
            f"publish x read in a backlog, {p}",
            town(p, waiting=2),
            {"zoe": publish(), "ann": read(p)},
            config={"pending_scan": 1},
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"publish x read, read in a backlog, {p}",
            town(p, old=8, waiting=2),
            {"zoe": publish(), "ann": in_turn(read(p, limit=1), read(p, limit=1))},
            config={"pending_scan": 1},
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"publish late x read, read in a backlog that was read, {p}",
            then(town(p, waiting=4), rest),
            {"zoe": publish_late, "ann": in_turn(*[read_acknowledged(p)] * 3)},
            config={"pending_scan": 3},
            fast=p == CACHE.slug,
        )
        for p in IN_WORKER
    ),
    *(
        Race(f"publish x refresh, {p}", town(p), {"zoe": publish(), "ann": refresh(p), "ann2": read(p)}, fast=False)
        for p in IN_WORKER
    ),
    # rebuild x delivery, rebuild x rebuild
    *(
        Race(
            f"rebuild x delivery, {p}",
            town(p, ann="cold", waiting=1),
            {"worker": work, "ann": read(p)},
            ("worker", "ann"),
        )
        for p in IN_WORKER
    ),
    *(
        Race(f"rebuild x rebuild, {p}", town(p, ann="new"), {"ann": read(p), "ann2": read(p)}, ("ann",), fast=False)
        for p in IN_WORKER
    ),
    *(
        Race(
            f"rebuild x rebuild x delivery, {p}",
            town(p, ann="cold", waiting=1),
            {"ann": read(p), "ann2": read(p), "worker": work},
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"rebuild x rebuild x expired lease, {p}",
            town(p, ann="cold"),
            {"ann": read(p), "ann2": read(p), "time": passes(11)},
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"rebuild x delivery x expired lease, {p}",
            town(p, ann="cold", waiting=1),
            {"ann": in_turn(read(p), read(p)), "worker": work, "time": passes(11)},
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"a job takes others along x their own jobs, {p}",
            town(p, waiting=2),
            {"worker": work, "worker2": work},
            ("worker",),
            fast=False,
        )
        for p in IN_WORKER
    ),
    # what ends a delivery
    *(
        Race(
            f"delete, {lets_in} x read, {p}",
            then(town(p), secret(audience)),
            {"zoe": in_turn(delete("secret"), edge(verb, "zoe", "ann")), "ann": read(p)},
            fast=p == CACHE.slug,
        )
        for lets_in, verb, audience in LETTING_IN
        for p in IN_WORKER
    ),
    *(
        Race(
            f"delete, {lets_in} x read of {limit} across the floor, {p}",
            then(town(p, old=4), secret(audience)),
            {"zoe": in_turn(delete("secret"), edge(verb, "zoe", "ann")), "ann": read(p, limit=limit)},
            fast=p == CACHE.slug,
        )
        for limit in (2, 20)
        for lets_in, verb, audience in LETTING_IN
        for p in IN_WORKER
    ),
    *(
        Race(f"delivery x unfollow x read, {p}", town(p, waiting=1), {"w": work, "ann": in_turn(unfollow(), read(p))})
        for p in IN_WORKER
    ),
    *(
        Race(
            f"delete x delivery x read, {p}",
            town(p, waiting=1),
            {"worker": work, "zoe": in_turn(delete("waiting 0"), read(p))},
            ("worker",),
            ("ann", "zoe"),
        )
        for p in IN_WORKER
    ),
    # widening
    *(
        Race(
            f"unfollow x follow again x publish, {p}",
            town(p),
            {"ann": in_turn(unfollow(), follow(), read(p)), "zoe": publish()},
            ("ann", "zoe"),
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"unfollow x follow x backfill, {p}",
            then(town(p), lambda town: Process(town).unfollow("ann", "zoe")),
            {"ann": in_turn(follow(), read(p)), "ann2": in_turn(unfollow(), follow())},
            ("ann",),
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"follow x publish, {p}",
            then(town(p), lambda town: Process(town).unfollow("ann", "zoe")),
            {"ann": in_turn(follow(), read(p)), "zoe": publish()},
            ("ann", "zoe"),
            fast=p == "cache",
        )
        for p in IN_WORKER
    ),
    *(Race(f"follow x rebuild, {p}", town(p, ann="cold"), {"ann": follow("yan"), "ann2": read(p)}) for p in IN_WORKER),
    *(
        Race(
            f"follow x return, {p}",
            town(p, ann="cold"),
            {"ann": in_turn(follow("yan"), read(p)), "ann2": read(p)},
            ("ann", "ann2"),
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(Race(f"follow x read, {p}", town(p), {"ann": follow("yan"), "ann2": read(p)}, ("ann",)) for p in IN_WORKER),
    *(
        Race(
            f"circle x follow x publish, {p}",
            then(town(p, audience="circle"), lambda town: Process(town).unfollow("ann", "zoe")),
            {"zoe": edge("add_to_circle", "zoe", "ann"), "ann": in_turn(follow(), read(p)), "zoe2": publish("circle")},
            ("zoe", "ann", "zoe2"),
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"circle x publish x return, {p}",
            town(p, audience="circle", ann="cold"),
            {"zoe": edge("add_to_circle", "zoe", "ann"), "ann": read(p), "zoe2": publish("circle")},
            ("zoe",),
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"follow back x publish to mutuals x read, {p}",
            town(p, audience="mutuals"),
            {"zoe": follow("ann", "zoe"), "zoe2": publish("mutuals"), "ann": read(p)},
            fast=False,
        )
        for p in IN_WORKER
    ),
    # trim
    Race("trim x delivery", then(town("queue", waiting=1), surplus), {"cut": cut, "zoe": publish()}, ("cut", "zoe")),
    Race("trim x read", then(town("queue"), surplus), {"cut": cut, "ann": read("queue")}, ("cut",)),
    Race(
        "trim x rebuild",
        then(town("queue", ann="cold"), surplus),
        {"cut": cut, "ann": in_turn(read("queue"), read("queue"))},
        ("cut", "ann"),
        fast=False,
    ),
    Race(
        "trim x refresh",
        then(town("queue"), surplus),
        {"cut": cut, "ann": in_turn(refresh("queue"), read("queue"))},
        ("cut", "ann"),
        fast=False,
    ),
    Race(
        "trim x follow",
        then(town("queue"), surplus),
        {"cut": cut, "ann": in_turn(follow("yan"), read("queue"))},
        ("cut", "ann"),
        fast=False,
    ),
    Race(
        "second trim x rebuild",
        then(town("queue"), cut_before),
        {"cut": in_turn(cut, cut), "ann": in_turn(refresh("queue"), read("queue"))},
        ("cut", "ann"),
        fast=False,
    ),
    Race(
        "second trim x trim x delivery",
        then(town("queue"), cut_before),
        {"cut": cut, "cut2": cut, "zoe": publish()},
        ("cut", "zoe"),
        fast=False,
    ),
    Race("trim on read x delivery", then(town("cache"), surplus), {"ann": read("cache"), "zoe": publish()}, ("ann",)),
    Race(
        "trim on read x follow",
        then(town("cache"), surplus),
        {"ann": read("cache"), "ann2": follow("yan")},
        ("ann2",),
        fast=False,
    ),
    Race(
        "trim on read x trim on read",
        then(town("cache"), surplus),
        {"ann": read("cache"), "ann2": read("cache"), "zoe": publish()},
        fast=False,
    ),
    # switch
    *(
        Race(
            f"switch on x slow publish x return, {p}",
            then(town(PUSH.slug, CACHE.slug), lambda town: town.deliver_only()),
            {"admin": switch(p), "zoe": publish(), "ann": in_turn(passes(4), read(p))},
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"switch on x publish x early return, {p}",
            then(town(PUSH.slug, CACHE.slug), lambda town: town.deliver_only()),
            {"admin": switch(p), "zoe": publish(), "ann": in_turn(newest_settings, read(p))},
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"switch off, publish x late read, {p}",
            town(p),
            {"admin": in_turn(switch(), publish()), "ann": read(p)},
            ("admin",),
        )
        for p in IN_WORKER
    ),
    *(
        Race(f"switch off x publish x read, {p}", town(p), {"admin": switch(), "zoe": publish(), "ann": read(p)})
        for p in IN_WORKER
    ),
    *(
        Race(
            f"switch off that takes long x publish x read, {p}",
            town(p),
            {"admin": slowly(switch(), 2.6), "zoe": publish(), "ann": read(p)},
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"begin anew x rebuild, {p}",
            town(p, ann="cold", waiting=1),
            {"admin": restart, "ann": read(p), "worker": work},
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"begin anew x delivery x slow read, {p}",
            town(p, waiting=1),
            {"admin": in_turn(restart, passes(4)), "ann": read(p), "worker": work},
            fast=False,
        )
        for p in IN_WORKER
    ),
    Race(
        "switch x begin anew",
        town("queue"),
        {"admin": switch(*IN_WORKER), "admin2": restart, "ann": read("queue")},
        ("admin", "admin2"),
        fast=False,
    ),
    # sweeper x worker
    *(
        Race(
            f"sweeper x worker, {p}",
            then(town(p, waiting=1), overdue),
            {"worker": work, "sweeper": sweeping, "ann": read(p)},
            ("worker", "sweeper"),
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"sweeper x sweeper, {p}",
            then(town(p, waiting=1), lost),
            {"sweeper": sweeping, "sweeper2": sweeping},
            ("sweeper",),
            fast=False,
        )
        for p in IN_WORKER
    ),
    # blocks
    *(
        Race(f"block x delivery x read, {p}", town(p, waiting=1), {"zoe": edge("block", "zoe", "ann"), "ann": read(p)})
        for p in IN_WORKER
    ),
    Race(
        "block x read that notes x read",
        town(CACHE.slug),
        {"zoe": edge("block", "zoe", "ann"), "ann": read(CACHE.slug), "ann2": read(CACHE.slug)},
    ),
    Race(
        "block x follow",
        town("cache"),
        {"zoe": edge("block", "yan", "ann"), "ann": follow("yan")},
        ("zoe", "ann"),
    ),
    Race(
        "follow x follow at the limit",
        town("cache", fans=("ben",)),
        {"ann": follow("yan"), "ann2": follow("ben")},
        ("ann",),
        after=ann_follows_two,
        config={"following_limit": 2},
    ),
    Race(
        "block x follow, both ways",
        town("cache"),
        {"zoe": edge("block", "yan", "ann"), "ann": follow("yan"), "yan": follow("ann", "yan")},
        ("zoe",),
        fast=False,
    ),
    Race(
        "block, unblock, follow x follow",
        town("cache"),
        {
            "zoe": in_turn(edge("block", "yan", "ann"), edge("unblock", "yan", "ann"), follow("yan"), read("cache")),
            "ann": follow("yan"),
        },
        after=ann_follows_yan,
        fast=False,
    ),
    # mutes: nothing that is kept changes by them
    *(
        Race(
            f"mute x publish x read, {p}",
            town(p, waiting=1),
            {"ann": edge("mute", "ann", "zoe"), "zoe": publish(), "ann2": read(p)},
            ("ann",),
            ("ann", "zoe"),
            fast=False,
        )
        for p in IN_WORKER
    ),
    # a process that remembers more than the list: what comes to the list after the edges were looked up
    *(
        Race(
            f"{late} x read by who {who}, {p}",
            then(town(p, fans=("ben",)), mutual),
            {"zoe": act, "ann": read(p)},
            ("zoe",),
            served=show(p, reader),
            fast=False,
        )
        for p in IN_WORKER
        for late, act in LATE
        for who, reader in KNOWING
    ),
    *(
        Race(
            f"unmute x publish x return, {p}",
            then(town(p, ann="cold"), muted),
            {"ann": in_turn(edge("unmute", "ann", "zoe"), read(p)), "zoe": publish()},
            fast=False,
        )
        for p in IN_WORKER
    ),
    *(
        Race(
            f"mute, unmute x rebuild, {p}",
            town(p, ann="cold"),
            {"ann": in_turn(edge("mute", "ann", "zoe"), edge("unmute", "ann", "zoe"), read(p)), "ann2": read(p)},
            fast=p == "cache",
        )
        for p in IN_WORKER
    ),
    # phase 4: activity, renewal and eviction
    Race(
        "publish x return of who was away",
        then(town("cache"), away),
        {"zoe": publish(), "ann": in_turn(read("cache"), read("cache"))},
        ("zoe",),
    ),
    Race(
        "publish x return x return of who was away",
        then(town("cache"), away),
        {"zoe": publish(), "ann": mark_active, "ann2": in_turn(read("cache"), read("cache"))},
        fast=False,
    ),
    Race(
        "sweep x return of who was away x publish",
        then(town("cache"), away),
        {"sweeper": sweep_active, "ann": in_turn(read("cache"), read("cache")), "zoe": publish()},
        fast=False,
    ),
    Race(
        "return that sleeps beyond the activity x follow",
        town("cache", ann="new"),
        {"ann": read("cache"), "ann2": follow("yan"), "time": in_turn(passes(75), sweep_active)},
        config={"timeline_ttl_s": 60, "activity_slack_s": 10},
        fast=False,
    ),
    Race(
        "unfollow x follow x publish, cache",
        town("cache"),
        {"ann": unfollow(), "ann2": in_turn(follow(), read("cache")), "zoe": publish()},
        fast=False,
    ),
    Race(
        "sending away x publish x return",
        town("cache"),
        {"admin": send_everybody_away, "zoe": publish(), "ann": read("cache")},
        ("admin",),
        fast=False,
    ),
    Race(
        "renewal x prepend",
        then(town("cache"), renewal_is_due),
        {"ann": read("cache"), "zoe": publish()},
        ("ann", "zoe"),
    ),
    Race(
        "renewal x follow",
        then(town("cache"), renewal_is_due),
        {"ann": read("cache"), "ann2": in_turn(follow("yan"), read("cache"))},
        ("ann2",),
        fast=False,
    ),
    Race("eviction x publish x return", town("cache"), {"e": evict, "zoe": publish(), "ann": read("cache")}),
    Race("eviction x follow", town("cache"), {"e": evict, "ann": in_turn(follow("yan"), read("cache"))}, ("ann",)),
    Race(
        "eviction x rebuild x delivery",
        town("cache", ann="cold", waiting=1),
        {"e": evict, "ann": in_turn(read("cache"), read("cache")), "worker": work},
        fast=False,
    ),
    Race(
        "eviction x rebuild x rebuild",
        town("cache", ann="cold"),
        {"e": evict, "ann": read("cache"), "ann2": read("cache")},
        fast=False,
    ),
    Race(
        "eviction x renewal x publish",
        then(town("cache"), renewal_is_due),
        {"e": evict, "ann": read("cache"), "zoe": publish()},
        fast=False,
    ),
    # phase 4: an expired list that Memcached still has
    Race(
        "publish x return to an expired list",
        then(town("cache"), slept),
        {"zoe": publish(), "ann": in_turn(read("cache"), read("cache"))},
        ("zoe", "ann"),
    ),
    Race(
        "publish x return x return to an expired list",
        then(town("cache"), slept),
        {"zoe": publish(), "ann": read("cache"), "ann2": in_turn(read("cache"), read("cache"))},
        fast=False,
    ),
    Race(
        "follow x return to an expired list",
        then(town("cache"), slept),
        {"ann": in_turn(follow("yan"), read("cache")), "ann2": read("cache")},
        ("ann", "ann2"),
        fast=False,
    ),
    Race(
        "renewal that sleeps beyond the activity x publish",
        then(town("cache"), renewal_is_due),
        {"ann": read("cache"), "time": sleeps(75), "zoe": publish()},
        config={"timeline_ttl_s": 60, "activity_slack_s": 10},
        fast=False,
    ),
    Race(
        "renewal that sleeps beyond the list x follow",
        then(town("cache"), renewal_is_due),
        {"ann": read("cache"), "time": sleeps(45), "ann2": follow("yan")},
        config={"timeline_ttl_s": 60, "activity_slack_s": 10},
        fast=False,
    ),
    Race(
        "return that sleeps beyond the activity x publish",
        town("cache", ann="new"),
        {"ann": read("cache"), "time": sleeps(75), "zoe": publish()},
        config={"timeline_ttl_s": 60, "activity_slack_s": 10},
        fast=False,
    ),
    Race(
        "return that sleeps beyond its lease x follow",
        town("cache", ann="new"),
        {"ann": read("cache"), "time": sleeps(11), "ann2": follow("yan")},
        fast=False,
    ),
    # phase 5: activity, renewal and eviction of a set; who follows the stream
    Race(
        "publish x return of who was away, stream",
        then(town(STREAM.slug), away),
        {"zoe": publish(), "ann": in_turn(read("stream"), read("stream"))},
        ("zoe",),
    ),
    Race(
        "publish x return to an expired set",
        then(town(STREAM.slug), slept),
        {"zoe": publish(), "ann": in_turn(read("stream"), read("stream"))},
        ("zoe", "ann"),
    ),
    Race(
        "renewal x follow, stream",
        then(town(STREAM.slug), renewal_is_due),
        {"ann": read("stream"), "ann2": in_turn(follow("yan"), read("stream"))},
        ("ann2",),
        fast=False,
    ),
    Race(
        "renewal that sleeps beyond the activity x publish, stream",
        then(town(STREAM.slug), renewal_is_due),
        {"ann": read("stream"), "time": sleeps(75), "zoe": publish()},
        config={"timeline_ttl_s": 60, "activity_slack_s": 10},
        fast=False,
    ),
    Race(
        "return that sleeps beyond the activity x follow, stream",
        town(STREAM.slug, ann="new"),
        {"ann": read("stream"), "ann2": follow("yan"), "time": in_turn(passes(75), sweep_active)},
        config={"timeline_ttl_s": 60, "activity_slack_s": 10},
        fast=False,
    ),
    Race(
        "eviction x rebuild x delivery, stream",
        town(STREAM.slug, ann="cold", waiting=1),
        {"e": evict_set, "ann": in_turn(read("stream"), read("stream")), "worker": work},
        fast=False,
    ),
    Race(
        "lease x lease",
        then(town(STREAM.slug), released),
        {"one": takes_the_lease("one"), "two": takes_the_lease("two")},
        after=one_has_taken_it,
    ),
    Race(
        "lease taken over x its first owner",
        then(town(STREAM.slug), owned),
        {"new": takes_the_lease("new", waits=True), "old": wakes_up},
        after=nobody_notes_a_place_but_the_owner,
    ),
    # memory beside a database that was restored
    Race(
        "pulse x pulse",
        town("cache"),
        {"one": in_turn(beat, beat), "two": in_turn(beat, beat)},
        ("one", "two"),
        after=nothing_has_begun_anew,
        fast=False,
    ),
    Race(
        "pulse of a stop x pulse of a stop",
        town("cache", STREAM.slug),
        {"one": beat, "two": beat},
        after=memory_knows_the_last_pulse,
    ),
    *and_dying(
        Race(
            "pulse x pulse after a restore",
            then(town("cache", ann="new"), restored),
            {"one": beat, "two": in_turn(beat, newest_settings, read("cache"), beat)},
            ("one",),
            after=lists_have_begun_anew,
        )
    ),
    # phase 6: who is pulled, and who knows it (rule 9); all of the above with somebody who has been pulled for long
    Race(
        "first pulled publish x read x read",
        then(town("hybrid"), unmarked),
        {"zoe": publish(), "ann": in_turn(read("hybrid"), read("hybrid"))},
        ("zoe",),
    ),
    Race(
        "first pulled publish x publish of another process x read",
        then(town("hybrid"), unmarked),
        {"zoe": publish(), "zoe2": publish(), "ann": read("hybrid")},
        ("zoe",),
        fast=False,
    ),
    Race(
        "becomes heavy x publish x read",
        then(then(town("hybrid"), unmarked), forced(False)),
        {"admin": force("zoe", True), "zoe": in_turn(newest_settings, publish()), "ann": read("hybrid")},
        ("zoe",),
    ),
    Race(
        "becomes light x publish x read",
        town("hybrid"),
        {"admin": force("zoe", False), "zoe": in_turn(newest_settings, publish()), "ann": read("hybrid")},
        ("zoe",),
    ),
    Race(
        "flips x publish x publish x read",
        then(town("hybrid"), unmarked),
        {
            "admin": in_turn(force("zoe", False), force("zoe", True)),
            "zoe": in_turn(newest_settings, publish(), newest_settings, publish()),
            "ann": in_turn(read("hybrid"), read("hybrid")),
        },
        fast=False,
    ),
    Race(
        "marker goes x pulled publish x read",
        then(town("hybrid"), nearly_swept),
        {"sweeper": sweep_markers, "zoe": publish(), "ann": read("hybrid")},
        ("zoe", "sweeper"),
    ),
    Race(
        "marker goes x pulled publish x read x read",
        then(town("hybrid"), nearly_swept),
        {"sweeper": sweep_markers, "zoe": publish(), "ann": in_turn(read("hybrid"), read("hybrid"))},
        ("zoe", "sweeper"),
        fast=False,
    ),
    Race(
        "renewal x pulled publish",
        then(town("hybrid"), renewal_is_due),
        {"ann": in_turn(read("hybrid"), read("hybrid")), "zoe": publish()},
        ("ann", "zoe"),
    ),
    Race(
        "renewal x marker goes x read",
        then(town("hybrid", waiting=1), renewal_is_due),
        {
            "ann": in_turn(read("hybrid"), read("hybrid")),
            "sweeper": in_turn(passes(60), sweep_markers),
            "ann2": read("hybrid"),
        },
        fast=False,
    ),
    *and_dying(
        Race(
            "the same post twice, pulled x delivered",
            then(town("hybrid"), unmarked),
            {
                "zoe": partial(_once, phase=HYBRID.slug),
                "zoe2": in_turn(force("zoe", False), newest_settings, partial(_once, phase=HYBRID.slug)),
            },
            ("zoe", "zoe2"),
            allowed=(Conflict, Forbidden, NotFound),
        )
    ),
    # likes: like and count change together, whoever reads
    *(
        Race(
            f"like x like x read, {p}",
            town(p, fans=("ben",)),
            {"ann": like("ann", "old 1"), "ben": like("ben", "old 1"), "ann2": read(p)},
            ("ann", "ben"),
            ("ann", "ben"),
        )
        for p in IN_WORKER
    ),
    Race(
        "like x the same like",
        town("cache", fans=("ben",)),
        {"ann": like("ann", "old 1"), "ann2": in_turn(like("ann", "old 1"), read("cache"))},
        ("ann",),
        ("ann", "ben"),
    ),
    Race(
        "like x unlike",
        then(town("cache", fans=("ben",)), liked),
        {
            "ann": in_turn(unlike("ann", "old 1"), like("ann", "old 1"), read("cache")),
            "ann2": unlike("ann", "old 1"),
            "ben": unlike("ben", "old 1"),
        },
        ("ann", "ben"),
        ("ann", "ben"),
    ),
    *(
        Race(
            f"like x delete x read, {p}",
            then(town(p, fans=("ben",)), liked),
            {"zoe": in_turn(like("zoe", "old 1"), unlike("zoe", "old 1")), "zoe2": delete("old 1"), "ann": read(p)},
            ("zoe", "zoe2"),
            ("ann", "zoe"),
            allowed=(NotFound,),
        )
        for p in IN_WORKER
    ),
    # notifications: each once, however often it is told, and whoever dies
    Race(
        "like that is told x unlike",
        told(town("cache", ann="new", fans=("ben",))),
        {
            "ann": in_turn(like("ann", "old 1"), work),
            "ann2": in_turn(unlike("ann", "old 1"), like("ann", "old 1")),
            "worker": work,
        },
        ("ann", "ann2", "worker"),
        ("zoe",),
        fast=False,
    ),
    Race(
        "like that is told x the same job",
        then(told(town("cache", ann="new", fans=("ben",))), liked),
        {"one": told_twice, "two": told_twice},
        ("one", "two"),
        ("zoe",),
    ),
    Race(
        "follow that is told x block",
        told(town("cache", ann="new")),
        {"ann": in_turn(follow("yan"), work), "yan": edge("block", "yan", "ann"), "worker": work},
        ("ann", "worker"),
        ("ann",),
    ),
    Race(
        "mention x follow",
        then(told(town("cache", ann="new", fans=("ben",))), mention_waits),
        {"worker": work, "ann": in_turn(unfollow(), follow())},
        ("worker",),
        ("ann",),
        fast=False,
    ),
    Race(
        "mention x mark as read",
        then(told(town("cache", ann="new", fans=("ben",))), mention_waits),
        {"worker": work, "ann": in_turn(marks_read, marks_read)},
        ("worker",),
        ("ann",),
        after=only_what_is_there_is_read,
    ),
    Race(
        "mention x delete",
        then(told(town("cache", ann="new", fans=("ben",))), mention_waits),
        {"worker": work, "zoe": delete("hello @ben @ann")},
        ("worker",),
        ("ann",),
    ),
    # names: what a process remembers of them is checked by a version
    *(
        Race(
            f"rename x page, {p}",
            town(p),
            {"zoe": rename("Zoë"), "ann": in_turn(named(p), named(p))},
            ("zoe",),
        )
        for p in KEEPING
    ),
    Race(
        "rename x rename x pages of one process",
        town("cache"),
        {
            "zoe": in_turn(rename("Zoë"), rename("Z.")),
            "ann": in_turn(named("cache"), at_once(named("cache"), named("query")), named("cache")),
        },
        fast=False,
    ),
    Race(
        "sign in x sign in at the limit of tokens",
        then(town("push"), nearly_all_tokens),
        dict.fromkeys(("ann", "ann2"), _sign_in),
        after=the_newest_tokens,
    ),
    token_race("sign out x requests of one process", _sign_out),
    token_race("deletion x requests of one process", leaves("ann")),
    # an account is deleted
    *(
        Race(
            f"deletion x page x page, {p}",
            town(p),
            {"zoe": leaves("zoe"), "ann": in_turn(read(p), read(p))},
            ("zoe",),
        )
        for p in KEEPING
    ),
    *(
        Race(
            f"deletion x post, {p}",
            town(p),
            {"zoe": leaves("zoe"), "zoe2": publish()},
            ("zoe", "zoe2"),
            allowed=(Forbidden, NotFound),
        )
        for p in KEEPING
    ),
    Race(
        "deletion x follow",
        town("cache"),
        {"yan": leaves("yan"), "ann": follow("yan")},
        ("yan", "ann"),
        allowed=(Forbidden, NotFound),
    ),
    Race(
        "deletion x follow by whom it is of",
        town("cache"),
        {"yan": leaves("yan"), "yan2": follow("zoe", "yan")},
        ("yan", "yan2"),
        allowed=(Forbidden, NotFound),
    ),
    Race(
        "deletion x like",
        town("cache", fans=("ben",)),
        {"ben": leaves("ben"), "ben2": like("ben", "old 1"), "ann": read("cache")},
        ("ben",),
        allowed=(Forbidden, NotFound),
    ),
    Race(
        "deletion x delivery to whom it is of",
        town("push"),
        {"ann": in_turn(leaves("ann"), clearing), "zoe": publish()},
        ("ann", "zoe"),
        ("zoe",),
        fast=False,
    ),
    Race(
        "deletion x deletion x sign in",
        town("push"),
        {"ann": leaves("ann"), "ann2": leaves("ann"), "ann3": _sign_in},
        readers=("zoe",),
        allowed=(NotFound, WrongPassword),
        after=nobody_is_signed_in,
    ),
    # the same twice
    *(
        Race(
            f"follow x the same follow{words}",
            town("cache"),
            {"ann": follow("yan"), "ann2": again},
            ("ann",),
            after=ann_follows_yan,
            fast=False,
        )
        for words, again in (("", follow("yan")), (" and a read", in_turn(follow("yan"), read("cache"))))
    ),
    Race(
        "post x the same post again",
        town(QUEUE.slug, STREAM.slug),
        dict.fromkeys(("zoe", "zoe2"), _once),
        ("zoe",),
        allowed=(Conflict, Forbidden, NotFound),
    ),
    *TALKING,
    *LISTENING,
)
