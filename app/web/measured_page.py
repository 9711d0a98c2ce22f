"""Pages of home timelines together with what they cost."""

from collections.abc import Awaitable
from dataclasses import dataclass
from time import perf_counter

from bson import ObjectId
from starlette.requests import Request

from app.stack.cost import Cost, counted
from app.web.state import services
from phases.home.page import Page

READS = 7  # of each phase, warm
WARMING = 1  # reads besides the first visit, which may have had a list rebuilt behind it
READING_S = 2.0  # of the time that one request has for servers


@dataclass(frozen=True)
class MeasuredPage:
    """A page with its cost. `number` and `title` are those of its phase, in the story."""

    page: Page
    number: int
    title: str
    cost: Cost
    elapsed_ms: float

    @property
    def slug(self) -> str:
        return self.page.phase


@dataclass(frozen=True)
class Compared:
    """One phase's reads: the first visit, which may find nothing kept or remembered, and the warm reads after it."""

    first: MeasuredPage
    reads: tuple[MeasuredPage, ...]

    @property
    def median(self) -> MeasuredPage:
        """The median read. Of an even number of reads it is the faster one of the middle."""
        return sorted(self.reads, key=lambda read: read.elapsed_ms)[(len(self.reads) - 1) // 2]

    @property
    def least_ms(self) -> float:
        return min(read.elapsed_ms for read in self.reads)

    @property
    def most_ms(self) -> float:
        return max(read.elapsed_ms for read in self.reads)

    @property
    def last(self) -> MeasuredPage:
        return self.reads[-1]


async def measured(request: Request, reading: Awaitable[Page]) -> MeasuredPage:
    """Read a page and measure what it costs."""
    with counted() as cost:
        start_s = perf_counter()
        page = await reading
        elapsed_ms = (perf_counter() - start_s) * 1000
    phases = services(request).timelines.phases
    return MeasuredPage(page, list(phases).index(page.phase) + 1, phases[page.phase].title, cost, elapsed_ms)


async def in_every_phase(
    request: Request,
    reader: ObjectId,
    before: ObjectId | None,
    limit: int,
    *,
    turn: int = 0,
    known: MeasuredPage | None = None,
) -> list[MeasuredPage]:
    """Read one page in every phase, one after another so that none slows another down; return them in story order.

    `turn`: how many phases have their turn later than the others. `known` is not read again.
    """
    timelines = services(request).timelines
    slugs = list(timelines.phases)
    at = turn % len(slugs)
    reads = {known.slug: known} if known else {}
    for slug in slugs[at:] + slugs[:at]:
        if slug not in reads:
            page = timelines.page(reader, phase=slug, before=before, limit=limit)
            reads[slug] = await measured(request, page)
    return [reads[slug] for slug in slugs]


async def compared(
    request: Request, reader: ObjectId, before: ObjectId | None, limit: int, known: MeasuredPage | None = None
) -> list[Compared]:
    """Compare the phases by one page: all are warmed, then all are read in turns, each beginning with another phase.

    `known`: a first visit that has been made. Where servers are slow there are fewer turns than READS, and at least
    one.
    """
    clock = services(request).stack.clock
    until_s = clock.monotonic() + READING_S
    first = await in_every_phase(request, reader, before, limit, known=known)
    turns: list[list[MeasuredPage]] = []
    while len(turns) < WARMING + READS and (not turns or clock.monotonic() < until_s):
        turns.append(await in_every_phase(request, reader, before, limit, turn=len(turns)))
    warm = turns[WARMING:] or turns
    return [Compared(visit, tuple(reads)) for visit, reads in zip(first, zip(*warm, strict=True), strict=True)]
