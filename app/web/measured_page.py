"""Pages of home timelines together with what they cost."""

from collections.abc import Awaitable
from dataclasses import dataclass
from time import perf_counter

from bson import ObjectId
from starlette.requests import Request

from app.stack.cost import Cost, counted
from app.web.request import timelines_of
from phases.home.page import Page


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


async def measured(request: Request, reading: Awaitable[Page]) -> MeasuredPage:
    """The page, counted in the metrics too."""
    with counted() as cost:
        start_s = perf_counter()
        page = await reading
        elapsed_ms = (perf_counter() - start_s) * 1000
    request.app.state.metrics.reads.labels(page.phase, page.source).inc()
    phases = timelines_of(request).phases
    return MeasuredPage(page, list(phases).index(page.phase) + 1, phases[page.phase].title, cost, elapsed_ms)


async def in_every_phase(
    request: Request, reader: ObjectId, before: ObjectId | None, limit: int, known: MeasuredPage | None = None
) -> list[MeasuredPage]:
    """The same page in every phase, one after another so that none slows another down; `known` is not read again."""
    timelines = timelines_of(request)
    return [
        known
        if known and known.slug == slug
        else await measured(request, timelines.page(reader, phase=slug, before=before, limit=limit))
        for slug in timelines.phases
    ]
