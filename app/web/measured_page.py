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
    """`number` and `title` of its phase, in the story."""

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
    """One phase: the first visit, which may find nothing kept and nothing remembered, and the warm reads after it."""

    first: MeasuredPage
    reads: tuple[MeasuredPage, ...]

    @property
    def median(self) -> MeasuredPage:
        """A read that was made, of an even number the faster one of the middle."""
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
    """The page, with what it cost."""
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
    """The same page in every phase, in story order, read one after another so that none slows another down.

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
    """Everybody is warmed, then all are read in turns, and each turn begins with another phase. `known`: a first visit
    that has been made. Where servers are slow there are fewer turns than READS, and at least one.
    """
    clock = services(request).stack.clock
    until_s = clock.monotonic() + READING_S
    first = await in_every_phase(request, reader, before, limit, known=known)
    turns: list[list[MeasuredPage]] = []
    while len(turns) < WARMING + READS and (not turns or clock.monotonic() < until_s):
        turns.append(await in_every_phase(request, reader, before, limit, turn=len(turns)))
    warm = turns[WARMING:] or turns
    return [Compared(visit, tuple(reads)) for visit, reads in zip(first, zip(*warm, strict=True), strict=True)]
