"""`feedlab bench targets`: each speed the project promises, as a ratio of two things measured in turn in one run."""

import asyncio
import gc
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
from bson import ObjectId

from app.clock import LAST_ID
from app.models import StatusRow
from app.social import Social
from benchmarks import limits, scenes
from benchmarks.compare import header
from benchmarks.limits import RawMemcached
from benchmarks.measure import Latencies
from benchmarks.rig import BenchRefused, Rig
from benchmarks.subject import Api, Http
from phases.activity import ACTIVE
from phases.p2_push import Push
from phases.timelines import Timelines

LIMIT = 50  # statuses on a page
WAIT_S = 120.0  # for something to be delivered
POLL_S = 0.02  # between two looks whether hundreds of jobs are done: seldom, so that looking takes nothing from them
FIRST_QUEUE = "deliver-first"
EMPTY_APPLICATION = (sys.executable, "-m", "benchmarks.limits")  # the descriptor of a listening socket is appended

Measured = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Scale:
    """Sizes. `repeats`: how often each side is measured, in turn."""

    many: int = 10_000
    most: int = 100_000
    followees: int = 1_000
    wide: int = 5_000
    repeats: int = 7
    reads: int = 150
    jobs: int = 500
    lags: int = 400

    def smaller(self, by: float) -> "Scale":
        """For tests: sizes are multiplied by a number below 1."""
        least = {"repeats": 2, "reads": 5, "jobs": 5, "lags": 5}
        return Scale(**{name: max(least.get(name, 20), round(size * by)) for name, size in asdict(self).items()})


@dataclass(frozen=True)
class Row:
    """One promise. `at_least` or `at_most` is None where a row only informs."""

    name: str
    title: str
    ratio: float
    at_least: float | None = None
    at_most: float | None = None
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.at_least is None and self.at_most is None:
            return None
        return not (self.at_least is not None and self.ratio < self.at_least) and not (
            self.at_most is not None and self.ratio > self.at_most
        )


async def in_turn(repeats: int, **measured: Measured) -> dict[str, list[float]]:
    """Seconds of each, a b c a b c …: the machine's noise meets all alike. The first turn does not count.

    What the scene has built is no garbage of what is measured: it is kept out of its collections, as our processes keep
    out what they start with.
    """
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    gc.freeze()
    for turn in range(repeats + 1):
        for name, measure in measured.items():
            began = time.perf_counter()
            await measure()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    gc.unfreeze()
    return seconds


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median of a ÷ median of b."""
    return statistics.median(a) / statistics.median(b)


def percentile(seconds: Sequence[float], p: float) -> float:
    latencies = Latencies()
    for s in seconds:
        latencies.record(s)
    return latencies.ms(p)


def p50_ms(**seconds: Sequence[float]) -> dict[str, float]:
    return {f"{name}_ms": percentile(found, 50) for name, found in seconds.items()}


def rates(deliveries: int, seconds: dict[str, list[float]]) -> dict[str, float]:
    return {f"{name}_per_s": round(deliveries / statistics.median(found)) for name, found in seconds.items()}


async def fan_out(rig: Rig, slug: str, status: StatusRow) -> None:
    """What the poster (phase 2) or the worker (3, 4) does for one status, in this process."""
    phase = rig.timelines.phases[slug]
    rest = await phase.fan_out(status, None)
    while rest:
        rest = await phase.fan_out(status, rest)


@asynccontextmanager
async def memcached(rig: Rig) -> AsyncIterator[RawMemcached]:
    if not rig.stack.addresses.memcached:
        raise BenchRefused("the raw limits need a real Memcached")
    raw = await RawMemcached.open(rig.stack.addresses.memcached[0])
    try:
        yield raw
    finally:
        await raw.close()


async def _fan_out_entries(rig: Rig, scale: Scale) -> list[Row]:
    db = rig.stack.db
    star = await scenes.star(rig, scale.many, 0)
    await limits.create(db)
    await limits.fill_arrays(db, star.followers)
    status = await scenes.stored_status(rig, star.author)

    async def push() -> None:
        await fan_out(rig, "push", StatusRow(ObjectId(), star.author, status.text, status.audience))

    seconds = await in_turn(
        3 * scale.repeats,
        push=push,
        raw=lambda: limits.insert_entries(db, star.author, ObjectId()),
        array=lambda: limits.push_arrays(db, star.author, ObjectId()),
    )
    figures = rates(scale.many, seconds)
    return [
        Row(
            "fanout-raw",
            f"phase 2 fan-out to {scale.many:,} followers, deliveries/s ÷ raw limit",
            ratio(seconds["raw"], seconds["push"]),
            at_least=0.8,
            figures=figures,
        ),
        Row(
            "fanout-array",
            "the same ÷ the article's $push/$slice array holding 200",
            ratio(seconds["array"], seconds["push"]),
            at_least=6,
            figures=figures,
        ),
    ]


async def _fan_out_lists(rig: Rig, scale: Scale) -> list[Row]:
    db, now = rig.stack.db, rig.stack.clock.now()
    star = await scenes.star(rig, scale.many, scale.many)
    async with memcached(rig) as raw:
        prefix = await scenes.keep_lists(rig, raw, star.followers)
        seconds = await in_turn(
            3 * scale.repeats,
            cache=lambda: fan_out(rig, "cache", StatusRow(ObjectId(), star.author, "", "followers")),
            raw=lambda: limits.prepend_lists(db, raw, star.author, ObjectId(), prefix, now),
        )
        await scenes.forget_lists(rig, raw, star.followers, prefix)
    title = f"phase 4 fan-out to {scale.many:,} active ÷ raw limit"
    figures = rates(scale.many, seconds)
    return [Row("fanout-cache-raw", title, ratio(seconds["raw"], seconds["cache"]), at_least=0.7, figures=figures)]


async def _fan_out_inactive(rig: Rig, scale: Scale) -> list[Row]:
    everybody = await scenes.star(rig, scale.most, scale.most)
    few = await scenes.star(rig, scale.most, scale.most // 100, everybody.followers)
    async with memcached(rig) as raw:
        prefix = await scenes.keep_lists(rig, raw, everybody.followers, ids=1)

        def post(star: scenes.Star) -> Measured:
            return lambda: fan_out(rig, "cache", StatusRow(ObjectId(), star.author, "", "followers"))

        seconds = await in_turn(max(3, scale.repeats // 2), all=post(everybody), few=post(few))
        await scenes.forget_lists(rig, raw, everybody.followers, prefix)
    title = f"phase 4, {scale.most:,} followers of whom 1 % active: time ÷ all active"
    return [
        Row("fanout-inactive", title, ratio(seconds["few"], seconds["all"]), at_most=0.03, figures=p50_ms(**seconds))
    ]


async def _acknowledged(rig: Rig, scale: Scale) -> list[Row]:
    large, small = await scenes.star(rig, scale.most, scale.most // 100), await scenes.star(rig, 10, 10)
    rows = []
    social = Social(rig.stack, rig.timelines)
    for slug in ("queue", "cache"):
        await only(rig, slug)
        seconds: dict[str, list[float]] = {"large": [], "small": []}
        for turn in range(2 * scale.repeats + 1):
            for name, star in (("large", large), ("small", small)):
                began = time.perf_counter()
                status, _ = await social.post(star.author, "a status")
                if turn:
                    seconds[name].append(time.perf_counter() - began)
                await delivered(rig, slug, [status.id])
        title = f"post acknowledged in phase {slug}, p50 at {scale.most:,} followers ÷ at 10"
        rows.append(
            Row(f"ack-{slug}", title, ratio(seconds["large"], seconds["small"]), at_most=1.2, figures=p50_ms(**seconds))
        )
    await scenes.everything_delivers(rig)
    return rows


async def only(rig: Rig, slug: str) -> None:
    await rig.timelines.switch(delivering=[slug])
    await rig.readable((store,) if (store := rig.timelines.phases[slug].keeps) else ())
    await asyncio.sleep(rig.stack.config.grace_s)  # what was switched off is no longer delivered to


async def delivered(rig: Rig, slug: str, statuses: Sequence[ObjectId], every_s: float = 0.002) -> None:
    """Wait until none of them is pending. Raises BenchRefused when that takes too long."""
    deadline = time.monotonic() + WAIT_S
    pending = {"_id": {"$in": list(statuses)}, "pending": slug}
    while await rig.stack.db["statuses"].find_one(pending, {"_id": 1}):
        if time.monotonic() > deadline:
            raise BenchRefused(f"{slug}: not delivered within {WAIT_S:.0f} s; does the worker run?")
        await asyncio.sleep(every_s)


async def _warm_read(rig: Rig, scale: Scale) -> list[Row]:
    db, pages = rig.stack.db, rig.timelines.page
    reader = await scenes.follower_of(rig, await scenes.authors(rig, scale.followees, 10))
    entries = f"home_entries_{(await scenes.container(rig, 'entries')).since}"
    for slug in scenes.KEEPING:
        await pages(reader, phase=slug, limit=LIMIT)
    seconds = await in_turn(
        scale.reads,
        push=lambda: pages(reader, phase="push", limit=LIMIT),
        queue=lambda: pages(reader, phase="queue", limit=LIMIT),
        cache=lambda: pages(reader, phase="cache", limit=LIMIT),
        raw=lambda: limits.read_two_queries(db, entries, reader, LIMIT),
    )
    assert await limits.read_two_queries(db, entries, reader, LIMIT) == LIMIT, "the raw read reads the same"
    title = f"warm read of {LIMIT} among {scale.followees:,} followees in phase {{}}, p50 ÷ raw two-query read"
    return [
        Row(
            f"read-{slug}",
            title.format(slug),
            ratio(seconds[slug], seconds["raw"]),
            at_most=1.0 if slug == "cache" else 1.3,
            figures=p50_ms(**seconds),
        )
        for slug in scenes.KEEPING
    ]


async def _followees(rig: Rig, scale: Scale) -> list[Row]:
    db, pages = rig.stack.db, rig.timelines.page
    everybody = await scenes.authors(rig, scale.wide + scale.wide // 5, 20)
    few = await scenes.follower_of(rig, everybody[: scale.wide // 50])
    many = await scenes.follower_of(rig, everybody[: scale.wide])
    seconds = await in_turn(
        scale.reads,
        few=lambda: pages(few, phase="query", limit=LIMIT),
        many=lambda: pages(many, phase="query", limit=LIMIT),
    )
    plain = await in_turn(
        max(3, scale.reads // 5),
        plain_few=lambda: limits.read_plain_in(db, few, LIMIT),
        plain_many=lambda: limits.read_plain_in(db, many, LIMIT),
    )
    figures = {f"{name}_p99_ms": percentile(found, 99) for name, found in (seconds | plain).items()}
    of = f"p99 at {scale.wide:,} followees ÷ at {scale.wide // 50}"
    return [
        Row(
            "read-followees",
            f"phase 1 {of}",
            figures["many_p99_ms"] / figures["few_p99_ms"],
            at_most=4,
            figures=figures | p50_ms(**seconds),
        ),
        Row(
            "read-plain-in",
            f"the plain $in, {of}",
            figures["plain_many_p99_ms"] / figures["plain_few_p99_ms"],
            figures=p50_ms(**plain),
        ),
    ]


async def _cold_return(rig: Rig, scale: Scale) -> list[Row]:
    """Whoever returns comes to a process that has never seen them; the one that they ask in phase 1 has."""
    cap, followees = rig.stack.config.cap, scale.followees // 5
    reader = await scenes.follower_of(rig, await scenes.authors(rig, followees, 10))
    lists = await scenes.container(rig, "lists")
    seconds: dict[str, list[float]] = {"returned": [], "evicted": [], "query": []}
    for turn in range(scale.reads // 3 + 1):
        for name in seconds:
            timelines = rig.timelines if name == "query" else Timelines(rig.stack)
            await timelines.settings.current()
            phase = timelines.phases["cache"]
            assert isinstance(phase, Push)
            if name != "query":
                await phase.store.forget(lists, reader)
            if name == "returned":
                await rig.stack.db[ACTIVE].delete_one({"_id": reader})
            began = time.perf_counter()
            page = await timelines.page(reader, phase="query" if name == "query" else "cache", limit=LIMIT)
            if turn:
                seconds[name].append(time.perf_counter() - began)
            assert page.cold == (name != "query"), name
            _, kept = await phase.store.read(lists, reader, LAST_ID, cap + 1, {}, False)
            assert kept, name
            assert len(kept.entries) == min(cap, followees * 10), name
    figures = p50_ms(**seconds)
    title = f"a cold return (rebuild of {cap}, {followees} followees{{}}) ÷ one phase 1 page"
    return [
        Row(
            "cold-return",
            title.format(", marking the reader active"),
            ratio(seconds["returned"], seconds["query"]),
            at_most=2,
            figures=figures,
        ),
        Row(
            "cold-evicted",
            title.format("; only the list was lost"),
            ratio(seconds["evicted"], seconds["query"]),
            figures=figures,
        ),
    ]


async def _jobs(rig: Rig, scale: Scale) -> list[Row]:
    star = await scenes.star(rig, 100, 100)
    rows = []
    async with memcached(rig) as raw:
        for slug in ("queue", "cache"):
            await only(rig, slug)
            if slug == "cache":
                await scenes.keep_lists(rig, raw, star.followers)
            seconds: dict[str, list[float]] = {"posts": [], "empty": []}
            for turn in range(4):
                for name, found in seconds.items():
                    took = await _worked_off(rig, scale.jobs, slug if name == "posts" else None, star.author)
                    if turn:
                        found.append(took)
            title = f"ordinary posts (100 followers) in phase {slug} through one worker ÷ empty RQ jobs through it"
            jobs_per_s = rates(scale.jobs, seconds)
            rows.append(
                Row(f"jobs-{slug}", title, ratio(seconds["empty"], seconds["posts"]), at_least=0.6, figures=jobs_per_s)
            )
    await scenes.everything_delivers(rig)
    return rows


async def _worked_off(rig: Rig, jobs: int, slug: str | None, author: ObjectId) -> float:
    """Seconds from the moment the worker may begin to the end of the last job. Everything is queued before that."""
    social, worker = Social(rig.stack, rig.timelines), psutil.Process(rig.processes["worker"])
    posts: list[ObjectId] = []
    worker.suspend()
    try:
        if slug is None:
            await asyncio.to_thread(_enqueue_nothing, rig, jobs)
        else:
            posts = [(await social.post(author, "a status"))[0].id for _ in range(jobs)]
    finally:
        began = time.perf_counter()
        worker.resume()
    await (_worked(rig) if slug is None else delivered(rig, slug, posts, POLL_S))
    return time.perf_counter() - began


def _enqueue_nothing(rig: Rig, jobs: int) -> None:
    queue = rig.stack.queue.queues[FIRST_QUEUE]
    for _ in range(jobs):
        queue.enqueue("benchmarks.limits.nothing", result_ttl=0)


async def _worked(rig: Rig) -> None:
    """Wait until no job waits or is being done."""
    redis, deadline = rig.stack.queue.connection, time.monotonic() + WAIT_S
    queue = rig.stack.queue.queues[FIRST_QUEUE]

    def busy() -> bool:
        return bool(queue.count or redis.zcard(queue.started_job_registry.key))

    while await asyncio.to_thread(busy):
        if time.monotonic() > deadline:
            raise BenchRefused(f"empty jobs are not done within {WAIT_S:.0f} s; does the worker run?")
        await asyncio.sleep(POLL_S)


async def _starvation(rig: Rig, scale: Scale) -> list[Row]:
    large, small = await scenes.star(rig, scale.most, scale.most // 100), await scenes.star(rig, 10, 10)
    social = Social(rig.stack, rig.timelines)
    await only(rig, "queue")
    seconds: dict[str, list[float]] = {"idle": [], "busy": []}
    for name, found in seconds.items():
        under_way: ObjectId | None = None
        for turn in range(scale.lags + 1):
            if name == "busy" and (under_way is None or not await _is_pending(rig, "queue", under_way)):
                under_way = (await social.post(large.author, "to everybody"))[0].id
            status, _ = await social.post(small.author, "to ten")
            began = time.perf_counter()
            await delivered(rig, "queue", [status.id], every_s=0.0005)
            if turn:
                found.append(time.perf_counter() - began)
        if under_way:
            await delivered(rig, "queue", [under_way])
    await scenes.everything_delivers(rig)
    figures = p50_ms(**seconds) | {f"{name}_p99_ms": percentile(found, 99) for name, found in seconds.items()}
    return [
        Row(
            "starvation",
            f"a 10-follower post's delivery lag p99 while {scale.most:,} are being delivered ÷ idle",
            figures["busy_p99_ms"] / figures["idle_p99_ms"],
            at_most=2,
            figures=figures,
        )
    ]


async def _is_pending(rig: Rig, slug: str, status: ObjectId) -> bool:
    return await rig.stack.db["statuses"].find_one({"_id": status, "pending": slug}, {"_id": 1}) is not None


async def _http(rig: Rig, scale: Scale) -> list[Row]:
    api = rig.subject
    assert isinstance(api, Api)
    reader = await scenes.follower_of(rig, await scenes.authors(rig, scale.followees // 5, 10))
    await api.enter([reader])
    rows = []
    with _empty_application() as port:
        http = Http("127.0.0.1", port)
        await _answers(http)
        for slug in rig.timelines.phases:
            await rig.timelines.page(reader, phase=slug)
            seconds = await in_turn(
                scale.reads,
                http=lambda slug=slug: api.ask(reader, "GET", f"/timeline?phase={slug}"),  # type: ignore[misc]
                page=lambda slug=slug: rig.timelines.page(reader, phase=slug),  # type: ignore[misc]
                empty=lambda: http.ask("GET", "/"),
            )
            own = [page + empty for page, empty in zip(seconds["page"], seconds["empty"], strict=True)]
            title = f"GET /timeline in phase {slug} over HTTP p50 ÷ (its own page + an empty Starlette route)"
            rows.append(Row(f"http-{slug}", title, ratio(seconds["http"], own), at_most=1.3, figures=p50_ms(**seconds)))
        await http.close()
    return rows


class _empty_application:
    """A process of its own with one route that answers nothing, on the same server as ours."""

    def __enter__(self) -> int:
        self._listener = socket.create_server(("127.0.0.1", 0))
        fd = self._listener.fileno()
        self._process = subprocess.Popen(
            [*EMPTY_APPLICATION, str(fd)],
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
        )
        return int(self._listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._listener.close()


async def _answers(http: Http) -> None:
    """A connection waits in the listener until the process is there."""
    status, _ = await asyncio.wait_for(http.ask("GET", "/"), 30)
    assert status == 200, status


Group = Callable[[Rig, Scale], Awaitable[list[Row]]]
# Which rows a measurement gives, in the order of the table.
GROUPS: dict[tuple[str, ...], Group] = {
    ("fanout-raw", "fanout-array"): _fan_out_entries,
    ("fanout-cache-raw",): _fan_out_lists,
    ("fanout-inactive",): _fan_out_inactive,
    ("ack-queue", "ack-cache"): _acknowledged,
    ("read-push", "read-queue", "read-cache"): _warm_read,
    ("read-followees", "read-plain-in"): _followees,
    ("cold-return", "cold-evicted"): _cold_return,
    ("jobs-queue", "jobs-cache"): _jobs,
    ("starvation",): _starvation,
    ("http-query", "http-push", "http-queue", "http-cache"): _http,
}
NAMES = tuple(name for names in GROUPS for name in names)


async def measure(
    rig: Rig, wanted: Sequence[str], scale: Scale, progress: Callable[[str, int, int], None] = lambda *_: None
) -> dict[str, Any]:
    """The rows whose names begin with one of `wanted`; all of them when it is empty."""
    groups = [
        (names, group)
        for names, group in GROUPS.items()
        if not wanted or any(name.startswith(prefix) for name in names for prefix in wanted)
    ]
    rows: list[Row] = []
    await scenes.everything_delivers(rig)
    for done, (names, group) in enumerate(groups):
        progress(names[0], done, len(groups))
        rows += await group(rig, scale)
    progress("done", len(groups), len(groups))
    return {
        **await header("targets", rig, asdict(scale)),
        "rows": [{**asdict(row), "ratio": round(row.ratio, 4), "met": row.met} for row in rows],
    }
