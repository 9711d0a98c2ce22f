"""`feedlab bench targets`: each speed the project promises, as a ratio of two things measured in turn in one run."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

from app.demo.progress import Progress, silent
from benchmarks import answers, scenes
from benchmarks.origin import origin
from benchmarks.report import Row, Targets
from benchmarks.rig import Rig
from benchmarks.targets import deliveries, http, jobs, messages, pulled, reads, throughput
from benchmarks.targets.base import Scale
from phases import PHASES
from phases.base import Phase


def _each(prefix: str, phases: Sequence[Phase]) -> tuple[str, ...]:
    return tuple(f"{prefix}-{phase.slug}" for phase in phases)


Group = Callable[[Rig, Scale], Awaitable[list[Row]]]
# Which rows a measurement gives, in the order of the table.
GROUPS: dict[tuple[str, ...], Group] = {
    ("fanout-raw", "fanout-array", f"fanout-{answers.LISTS.slug}-raw"): deliveries.limited,
    ("fanout-inactive",): deliveries.inactive,
    (f"fanout-{answers.SETS.slug}-raw",): deliveries.sets,
    _each("ack", answers.IN_WORKER): jobs.acknowledgements,
    ("post-stream", "lag-stream", "lag-stream-p99"): jobs.carried,
    _each("read", answers.KEEPING): reads.warm,
    ("page-redis", "page-asks", "page-stranger"): reads.redis_user,
    ("read-followees", "read-plain-in"): reads.followees,
    ("cold-return", "cold-evicted"): reads.cold_return,
    _each("jobs", answers.IN_WORKER): jobs.throughput,
    ("starvation",): jobs.starvation,
    _each("http", PHASES): http.overhead,
    ("post-http",): http.post,
    ("page-http",): throughput.raw,
    ("two-web",): throughput.two,
    _each("backlog", answers.IN_WORKER): throughput.waiting,
    ("messages-late", "messages-receipts", "messages-lost", "messages-mongodb", "messages-redis"): messages.late,
    ("page-pulled",): pulled.page,
    ("celebrity",): pulled.celebrity,
}
NAMES = tuple(name for names in GROUPS for name in names)


async def measure(rig: Rig, wanted: Sequence[str], scale: Scale, progress: Progress = silent) -> Targets:
    """Measure the rows whose names begin with one of `wanted`; all of them when it is empty.

    After each group `rig.so_far` is what there is to show, and None after a wrong page.
    """
    groups = [
        (names, group)
        for names, group in GROUPS.items()
        if not wanted or any(name.startswith(prefix) for name in names for prefix in wanted)
    ]
    about, rows = await origin(rig), list[Row]()
    await scenes.everything_delivers(rig)
    with rig.nothing_if_wrong():
        for done, (names, group) in enumerate(groups):
            progress(names[0], done, len(groups))
            rows += await group(rig, scale)
            rig.so_far = report = Targets(
                **vars(about), settings=asdict(scale), rows=list(rows), smaller=scale != Scale(), unfinished=True
            )
    progress("done", len(groups), len(groups))
    return report.model_copy(update={"unfinished": False})
