"""The targets for pages a second over HTTP, in a closed loop: beside the raw page, by two processes, in a backlog."""

import itertools
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import psutil
from bson import ObjectId

from app.demo.seed import insert
from app.models import Status
from app.stack.mongodb.shared import MOST
from app.stack.mongodb.write import housekeeping
from benchmarks import answers, limits, raw_page, scenes
from benchmarks.borrowed import beside
from benchmarks.generator import Asked, Generator, Reader, checksum
from benchmarks.observe import Meters, processor_s
from benchmarks.readers import LIMIT, Readers, checked, crowd, followed, post, workers_stopped
from benchmarks.report import Row
from benchmarks.rig import BenchRefused, Rig, Web, web_processes
from benchmarks.subject import Http
from benchmarks.targets.base import Ratio, Scale, Timed, rates, ratio, row, timed_in_turn

SECONDS = 0.6  # of one measurement
BURN_IN_S = 0.1
CONNECTIONS = 4
TWO = 2  # web processes
CROWD = 2 * MOST  # connections for each of two processes: two of the fullest commands, one of which waits
ASKED = Asked(ports=(), path="", readers=(), seconds=SECONDS, rate=None, burn_in_s=BURN_IN_S, connections=CONNECTIONS)


async def s_per_page(generator: Generator, asked: Asked) -> float:
    answered = checked(await generator.offer(asked))
    return answered.seconds / answered.answered


def sized(scale: Scale) -> Asked:
    return replace(ASKED, seconds=max(0.1, SECONDS * scale.repeats / Scale().repeats))


async def raw(rig: Rig, scale: Scale) -> list[Row]:
    """Compare our page with one that checks nothing and whose answer is made before."""
    phase, asked = answers.LISTS, sized(scale)
    readers = await crowd(rig, scale.people, scale.readers)
    async with (
        web_processes(rig, 1) as [web],
        _raw_page(rig, phase.slug, readers, web) as (port, body),
        Generator.running() as generator,
    ):
        shown = await readers.shown(phase.slug, [web.port])
        ours = replace(asked, ports=[web.port], path=readers.path(phase.slug), readers=shown)
        ready = [Reader(reader.token, checksum(body)) for reader in shown]
        bare = replace(asked, ports=[port], path=raw_page.PAGE, readers=ready)
        seconds = await timed_in_turn(
            scale.pairs, page=partial(s_per_page, generator, ours), raw=partial(s_per_page, generator, bare)
        )
    title = (
        f"GET /timeline of {LIMIT} in phase {phase.slug}, pages/s ÷ a bare route with a hand-written page's commands"
    )
    return [row("page-http", title, ratio(seconds["raw"], seconds["page"]), rates(1, seconds), at_least=0.6)]


@asynccontextmanager
async def _raw_page(rig: Rig, slug: str, readers: Readers, web: Web) -> AsyncIterator[tuple[int, bytes]]:
    """Run the raw page; yield its port, and its answer, which is a page of ours. Its lists hold our lists' ids."""
    ids = [rig.loaded.ids[number] for number in readers.numbers]
    await readers.enter(readers.numbers)
    http = Http("127.0.0.1", web.port)
    token = f"Authorization: Bearer {readers.tokens[readers.numbers[0]]}\r\n"
    _, body = await http.ask("GET", readers.path(slug), None, token)
    await http.close()
    _, prefix = await answers.list_keys(rig.timelines, slug, ids)
    node, mongodb = scenes.memcached_node(rig), rig.stack.addresses.mongodb
    assert mongodb
    page = raw_page.Page(mongodb, rig.stack.db.name, node, prefix, slug, LIMIT, body.decode())
    with limits.RawMemcached.connected(node) as memcached, raw_page.serving(page) as port:
        for number, id in zip(readers.numbers, ids, strict=True):
            kept = readers.record.oracle(number).timeline(id)[: rig.stack.config.cap]
            memcached.set_all([f"{prefix}{id}"], b"".join(each.binary for each in kept))
        yield port, body
        memcached.delete_all([f"{prefix}{id}" for id in ids])


async def two(rig: Rig, scale: Scale) -> list[Row]:
    """Compare two web processes with one, beside what the cores allow.

    That is by processor time: in the web processes, and elsewhere. There are so many connections that two processes
    share as much of each command as one does; of few, one process makes fewer commands.
    """
    phase, asked = answers.LISTS, sized(scale)
    readers = await crowd(rig, scale.people, scale.readers)
    used: list[tuple[float, float]] = []  # processor seconds of a page: in the web process, in all others

    async with web_processes(rig, TWO) as webs, Generator.running() as generator:
        ports = [web.port for web in webs]
        shown = await readers.shown(phase.slug, ports)
        asked = replace(
            asked, path=readers.path(phase.slug), readers=shown, connections=TWO * CROWD, burn_in_s=0
        )  # without a burn-in on either side: its processor time would count, and its pages would not

        async def one() -> float:
            web_s, others = processor_s(webs[0].pid), await Meters.read(rig)
            answered = checked(await generator.offer(replace(asked, ports=ports[:1])))
            rest_s = sum((await Meters.read(rig)).since(others).cpu_s.values()) + answered.cpu_s
            used.append(((processor_s(webs[0].pid) - web_s) / answered.answered, rest_s / answered.answered))
            return answered.seconds / answered.answered

        seconds = await timed_in_turn(
            scale.pairs, one=one, two=partial(s_per_page, generator, replace(asked, ports=ports))
        )
    counted, cores = used[1:], psutil.cpu_count() or 1  # the first turn does not count
    most = [min(TWO, cores * web_s / (web_s + others_s)) for web_s, others_s in counted]
    web_ms, others_ms = (1000 * statistics.median(each) for each in zip(*counted, strict=True))
    figures = rates(1, seconds) | {"most": statistics.median(most), "web_ms": web_ms, "others_ms": others_ms}
    title = f"pages/s of {TWO} web processes in phase {phase.slug} ÷ of 1, ÷ the most that the cores allow"
    return [row("two-web", title, to_the_most(seconds["one"], seconds["two"], most), figures, at_least=0.9)]


def to_the_most(one: Sequence[float], two: Sequence[float], most: Sequence[float]) -> Ratio:
    """Return the ratio of two processes' pages a second to one's, ÷ the most in each turn: its spread counts, too."""
    return ratio([s / times for s, times in zip(one, most, strict=True)], two)


async def waiting(rig: Rig, scale: Scale) -> list[Row]:
    """Compare pages with a backlog and with none, in two databases with equal people and statuses.

    Each has a web process. (In one database whose statuses become pending and not pending in turn the side with none is
    slow: 19 pages/s ÷ 69, since the index is full of entries that were deleted a moment ago, again and again.)
    """
    slugs, asked = [phase.slug for phase in answers.IN_WORKER], sized(scale)
    async with beside(rig) as calm, workers_stopped(rig), Generator.running() as generator:
        measured: dict[str, Timed] = {}
        waits: dict[str, float] = {}  # pending at last, by phase: one that pulls delivers less
        async with AsyncExitStack() as exits:
            for name, system in (("none", calm), ("pending", rig)):
                await answers.deliver_only(system.timelines, slugs)
                readers = await crowd(system, scale.people, scale.readers)
                web, *others = await exits.enter_async_context(web_processes(system, TWO if system is rig else 1))
                authors = followed(system, readers.numbers)
                for slug in slugs:
                    await readers.shown(slug, [web.port])  # what is kept is there, before anything is posted
                if system is rig:
                    posted = await post(readers, [each.port for each in (web, *others)], authors, scale.pending)
                else:
                    await _delivered(system, readers, authors, scale.pending)
                for slug in slugs:
                    due = len(posted) if system is rig else 0
                    if (found := await answers.owed(system.timelines, slug)) != due:
                        raise BenchRefused(f"{slug}: {found:,} statuses are pending or pulled and not {due:,}")
                    waits[slug] = await system.timelines.outbox.count(slug)
                    shown = await readers.shown(slug, [web.port])
                    of = replace(asked, ports=[web.port], path=readers.path(slug), readers=shown)
                    measured[f"{slug}_{name}"] = partial(s_per_page, generator, of)
            sides = (f"{slug}_{side}" for slug in slugs for side in ("none", "pending"))  # a pair side by side
            seconds = await timed_in_turn(scale.pairs, **{side: measured[side] for side in sides})
        with housekeeping():
            await rig.stack.db["statuses"].update_many({"_id": {"$in": posted}}, {"$set": {"pending": []}})
        await rig.stack.queue.forget()
    await scenes.everything_delivers(rig)
    title = (
        f"pages/s in phase {{}} with {scale.pending:,} posted and pending, by people whom readers follow ÷ with none"
    )
    return [
        row(
            f"backlog-{slug}",
            title.format(slug),
            ratio(seconds[f"{slug}_none"], seconds[f"{slug}_pending"]),
            rates(1, {name: seconds[f"{slug}_{name}"] for name in ("none", "pending")}) | {"pending": waits[slug]},
            at_least=0.85,
        )
        for slug in slugs
    ]


async def _delivered(rig: Rig, readers: Readers, authors: Sequence[int], count: int) -> None:
    """Insert as many statuses by the same people, already delivered: what is kept is made anew, and so has them."""
    coming = [(ObjectId(), author) for author, _ in zip(itertools.cycle(authors), range(count), strict=False)]
    fields = {"text": "a status beside the backlog", "audience": "followers", "deleted": False}
    documents = ({"_id": id, "user_id": rig.loaded.ids[author], **fields} for id, author in coming)
    await insert(rig.stack, Status, documents, count)
    for id, author in coming:
        readers.record.post(id, author, "followers")
    for phase in answers.IN_WORKER:
        await answers.forget(rig.timelines, phase.slug, [rig.loaded.ids[number] for number in readers.numbers])
