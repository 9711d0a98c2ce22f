"""Pages of home timelines together with what they cost."""

from collections.abc import Awaitable
from dataclasses import dataclass
from time import perf_counter

from bson import ObjectId
from starlette.requests import Request

from app.stack.cost import Cost, counted
from app.web.request import timelines_of
from phases import PHASES
from phases.reading import Page

NUMBERS = {phase.slug: number for number, phase in enumerate(PHASES, 1)}
TITLES = {phase.slug: phase.title for phase in PHASES}


@dataclass(frozen=True)
class MeasuredPage:
    page: Page
    cost: Cost
    elapsed_ms: float

    @property
    def slug(self) -> str:
        return self.page.phase

    @property
    def number(self) -> int:
        """Place in the story, from 1."""
        return NUMBERS[self.slug]

    @property
    def title(self) -> str:
        return TITLES[self.slug]

    @property
    def commands(self) -> int:
        return self.cost.mongodb + self.cost.memcached + self.cost.redis


async def measured(request: Request, reading: Awaitable[Page]) -> MeasuredPage:
    """The page, counted in the metrics too."""
    with counted() as cost:
        start_s = perf_counter()
        page = await reading
        elapsed_ms = (perf_counter() - start_s) * 1000
    request.app.state.metrics.reads.labels(page.phase, page.source).inc()
    return MeasuredPage(page, cost, elapsed_ms)


async def in_every_phase(
    request: Request, reader: ObjectId, before: ObjectId | None, limit: int, known: MeasuredPage | None = None
) -> list[MeasuredPage]:
    """The same page in every phase, one after another so that none slows another down; `known` is not read again."""
    timelines = timelines_of(request)
    return [
        known
        if known and known.slug == phase.slug
        else await measured(request, timelines.page(reader, phase=phase.slug, before=before, limit=limit))
        for phase in PHASES
    ]
