"""The comparison itself: with phases whose speed is known, with phases that lie, and once for real."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import httpx
import psutil
import pytest
from bson import ObjectId
from starlette.applications import Starlette

from app.access import Entry
from app.config import Config
from app.demo.graph import Graph, powerlaw
from app.demo.progress import Progress, silent
from app.models import NOBODY, HeavyAuthor, StatusRow
from app.serve import _uvicorn
from app.servers.programs import Level, ServersError
from app.stack import Addresses, connected
from app.stack.cost import counted
from app.web import create_app
from benchmarks import answers, observe, rounds
from benchmarks import rig as rig_module
from benchmarks.observe import NotDelivered
from benchmarks.record import Loaded, Record
from benchmarks.report import Comparison, Settings
from benchmarks.report import load as read_report
from benchmarks.rig import OVERRIDES, BenchRefused, Rig, _answers, _environment
from benchmarks.rounds import CHECKED_READERS, checked, compare
from benchmarks.subject import Api, Failed, Http, InProcess, WrongAnswer
from benchmarks.tables import grids
from benchmarks.workload import Workload, load
from phases import reading
from phases.base import Carrier, Phase
from phases.delivering.delivery import Delivery
from phases.home.page import Page
from phases.p1_query import QUERY, HomeTimeline
from phases.p2_push import PUSH
from phases.p3_queue import QUEUE
from phases.p4_cache import CACHE
from phases.p6_hybrid import HYBRID
from phases.pulling import author
from phases.timelines import Timelines
from tests.benchmarks.command import bench
from tests.benchmarks.virtual import LoopClock, run
from tests.conftest import real_servers
from tests.world import STAND_INS

FULL = Path("/dev/full")
TWO = f"{QUERY.slug},{PUSH.slug}"

GRAPH = powerlaw(14, 3, 1)
SETTINGS = Settings(
    phases=(QUERY.slug, PUSH.slug),
    workload="undo",
    graph="powerlaw:14:3",
    seconds=2,
    rounds=2,
    seed=1,
    through="inprocess",
    burn_in_s=0.5,
    rate=40,
)


@asynccontextmanager
async def virtual_rig(phases: tuple[Phase, ...]) -> AsyncIterator[Rig]:
    config = Config(database="test_bench", cap=20)
    async with connected(STAND_INS, config, LoopClock()) as stack:
        timelines = Timelines(stack, phases)
        await timelines.switch.open(phases[0].slug, [])
        yield Rig(stack, timelines, InProcess(stack, timelines), {"harness": psutil.Process().pid}, True)


def compared(
    phases: tuple[Phase, ...], workload: Workload | None = None, graph: Graph = GRAPH, **changes: Any
) -> Comparison:
    async def work() -> Comparison:
        async with virtual_rig(phases) as rig:
            settings = SETTINGS.model_copy(update={"phases": tuple(phase.slug for phase in phases), **changes})
            return await compare(rig, graph, workload or load("undo"), settings)

    return run(work())


class Timed(HomeTimeline):
    """Every tenth page takes 50 ms, the others 5."""

    pages = 0

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        Timed.pages += 1
        await asyncio.sleep(0.050 if Timed.pages % 10 == 0 else 0.005)
        return await super().older_than(cursor, n)


def test_a_phase_of_known_latency_is_measured_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "HomeTimeline", Timed)
    reads = load("read-heavy").model_copy(update={"name": "reads"})
    report = compared((QUERY,), reads, rounds=1, seconds=30)
    figures = report.phases[QUERY.slug].latency_ms["read_warm"]
    assert figures
    assert figures["p50"] == pytest.approx(5, rel=0.01)
    assert figures["p90"] in (pytest.approx(5, rel=0.01), pytest.approx(50, rel=0.01))
    assert figures["p99"] == pytest.approx(50, rel=0.01)
    assert report.phases[QUERY.slug].operations == 1_200
    assert report.meaningless


def test_two_phases_undoing_things_are_what_the_oracle_says() -> None:
    report = compared((QUERY, PUSH))
    assert [(cell.round, cell.phase) for cell in report.cells] == [
        (1, QUERY.slug),
        (1, PUSH.slug),
        (2, PUSH.slug),
        (2, QUERY.slug),
    ]
    for cell in report.cells:
        assert cell.checked_pages >= 14
        assert {"read", "post", "follow", "unfollow"} <= set(cell.counts)
        assert not cell.errors
    same = [[cell.counts for cell in report.cells if cell.phase == slug] for slug in SETTINGS.phases]
    assert same[0] == same[1], "each phase is asked the same"
    push, lag = report.phases["push"], report.phases["push"].latency_ms["lag"]
    assert push.kept.entries > 0
    assert push.lag_checked > 0
    assert lag
    assert lag["max"] <= 0.001, "the poster waits, so there is no lag"
    assert report.ratios["push"]["commands per post"].median > 1
    for cell in report.cells:
        assert cell.deliveries_per_s == pytest.approx(
            cell.deliveries / (cell.elapsed_s - SETTINGS.burn_in_s), abs=0.1
        ), "what is delivered for the burn-in does not count, and neither does its time"


@pytest.mark.parametrize(("workload", "pulled"), [("post-heavy", True), ("read-heavy", False)])
def test_the_hybrid_decides_by_the_workloads_mix_and_not_by_the_warming(
    workload: str, pulled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it pulls is delivered to nobody, and has no lag. (Nobody works here: what is not pulled stays pending.)"""
    monkeypatch.setattr(rounds, "DRAIN_S", 0.05)
    report = compared((PUSH, HYBRID), load(workload), seconds=4, rate=60, rounds=1)
    posts = sum(cell.counts["post"] for cell in report.cells if cell.phase == HYBRID.slug)
    figures = report.phases[HYBRID.slug]
    assert (figures.pulled, figures.counts["lag"], figures.deliveries_per_s) == (posts if pulled else 0, 0, 0)
    assert figures.drained is pulled
    assert report.phases[PUSH.slug].deliveries_per_s > 0
    assert any("pulled" in row[0] for grid in grids(report) for row in grid.rows) is pulled


def test_an_hour_at_a_high_rate_is_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(author, "uncounted", nullcontext)

    async def work() -> None:
        async with virtual_rig((QUERY, HYBRID)) as rig:
            with counted() as cost:
                await answers.count_anew(rig.timelines, pages=360_000, posts=3_600)
            assert cost.mongodb == 2, "what was counted before is removed, and this is written"
            assert await rig.timelines.pulls.authors.pages_a_post() == 100

    run(work())


def test_whoever_was_pulled_in_one_round_is_not_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next one finds its authors marked, or so many that the rule marks no more."""
    monkeypatch.setattr(rounds, "DRAIN_S", 0.05)

    async def work() -> None:
        async with virtual_rig((HYBRID,)) as rig:
            settings = SETTINGS.model_copy(update={"workload": "post-heavy", "phases": (HYBRID.slug,), "rounds": 2})
            report = await compare(rig, GRAPH, load("post-heavy"), settings)
            assert [cell.pulled for cell in report.cells] == [cell.counts["post"] for cell in report.cells]
            assert await rig.stack.db[HeavyAuthor.Settings.name].count_documents({}) == 0

    run(work())


def test_what_a_phase_has_not_delivered_is_no_work_of_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody works here: its jobs would find nothing, and the next one's would wait behind them."""
    monkeypatch.setattr(rounds, "DRAIN_S", 0.05)

    async def work() -> None:
        async with virtual_rig((QUEUE,)) as rig:
            settings = SETTINGS.model_copy(update={"phases": (QUEUE.slug,), "rounds": 1})
            report = await compare(rig, GRAPH, load("undo"), settings)
            assert report.cells[0].counts["post"] > 0
            assert not report.cells[0].drained
            assert await rig.stack.queue.depth() == {}

    run(work())


class InTheApp(Http):
    """The API without a connection."""

    def __init__(self, app: Starlette) -> None:
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://feedlab.test")

    async def ask(self, method: str, path: str, body: Any = None, headers: str = "") -> tuple[int, bytes]:
        named = dict(line.split(": ", 1) for line in headers.splitlines())
        answer = await self._client.request(method, path, json=body, headers=named)
        return answer.status_code, answer.content


@pytest.mark.parametrize("load_of", [{"rate": 40.0}, {"rate": None, "clients": 2}], ids=["open", "closed"])
def test_nobody_is_given_a_token_while_it_counts(load_of: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """However late they first come up: whoever made one paid for it, and those who were measured later did not."""
    monkeypatch.setattr(rounds, "AHEAD", 5)
    right, given = rounds._offer, list[int]()

    async def work() -> None:
        async with virtual_rig((QUERY,)) as rig:
            rig.subject = Api(rig.stack, InTheApp(create_app(rig.stack, rig.timelines)), {})

            async def offer(*of: Any) -> Any:
                given.append(await rig.stack.db["tokens"].count_documents({}))
                offered = await right(*of)
                given.append(await rig.stack.db["tokens"].count_documents({}))
                return offered

            monkeypatch.setattr(rounds, "_offer", offer)
            settings = SETTINGS.model_copy(update={"phases": (QUERY.slug,), "seconds": 0.5, "burn_in_s": 0, **load_of})
            await compare(rig, GRAPH, load("undo"), settings)
            assert given == [len(GRAPH.people)] * 4, "before and after, in two rounds"

    asyncio.run(work())


def test_the_processes_of_a_benchmark_take_no_port_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLAB_METRICS", "127.0.0.1:9400")
    of_children = _environment(Config.from_environment(**OVERRIDES))
    assert Config.from_environment({**os.environ, **of_children}).metrics is None


def test_a_server_that_says_nothing_is_not_waited_for_for_ever() -> None:
    """Nor is one that ends while it is asked: whether its process has died is what to look at next."""

    async def work() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        http = Http("127.0.0.1", port, patience_s=0.01)
        with pytest.raises(Failed, match="TimeoutError"):
            await http.ask("GET", "/healthz")
        assert not await _answers(http)
        server.close()
        await server.wait_closed()
        assert not await _answers(http)

    asyncio.run(work())


def test_whoever_deletes_a_post_that_has_failed_does_not_wait_for_it_for_ever() -> None:
    right, asked = InProcess.post, count()

    async def post(*of: Any) -> Any:
        if next(asked) % 3 == 0:
            raise Failed("HTTP 503")
        return await right(*of)

    with patch.object(InProcess, "post", post):
        report = compared((QUERY,), rounds=1, seconds=10)
    errors = report.phases[QUERY.slug].errors
    assert errors["post: HTTP 503"] > 0
    assert errors["delete: its post has failed"] > 0


def forgetful(page: Page) -> Page:
    """Loses one status of every page."""
    return replace(page, statuses=page.statuses[1:])


def blabbing(page: Page) -> Page:
    """Shows what was deleted."""
    return replace(page, statuses=[StatusRow(ObjectId(), ObjectId(), "", None), *page.statuses])


def ends_early(page: Page) -> Page:
    """The right statuses, and no cursor to the next page."""
    return replace(page, next=None)


@pytest.mark.parametrize("wrong", [forgetful, blabbing, ends_early])
def test_a_phase_that_answers_wrongly_fails_the_run(wrong: Callable[[Page], Page]) -> None:
    right = Timelines.page

    async def page(*asked: Any, **more: Any) -> Page:
        return wrong(await right(*asked, **more))

    with patch.object(Timelines, "page", page), pytest.raises(WrongAnswer, match=QUERY.slug):
        compared((QUERY,), rounds=1, seconds=1)


async def lie(delivery: Delivery, status: StatusRow) -> None:
    """Says that everything is delivered."""
    await delivery.done(status.id)


def test_a_phase_that_only_says_it_delivered_fails_the_run() -> None:
    with pytest.raises(NotDelivered, match="does not have it"):
        compared((replace(PUSH, slug="liar", carrier=Carrier(lie, in_worker=False)),), rounds=1, seconds=1)


def test_nobody_waits_for_deliveries_after_a_lie() -> None:
    """What is posted after it has been found out is watched by nobody. (The clock is virtual.)"""

    async def work() -> float:
        async with virtual_rig((replace(PUSH, slug="liar", carrier=Carrier(lie, in_worker=False)),)) as rig:
            seconds = observe.CHECK_DEADLINE_S + 5
            settings = SETTINGS.model_copy(update={"phases": ("liar",), "seconds": seconds})
            with pytest.raises(NotDelivered):
                await compare(rig, GRAPH, load("undo"), settings)
            return asyncio.get_running_loop().time() - seconds

    assert run(work()) < rounds.DRAIN_S


def test_what_no_look_sees_is_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "POLL_LIMIT", 2)

    async def work() -> None:
        async with virtual_rig((QUERY, PUSH)) as rig:
            await rig.load(GRAPH, 1, 0, range(14))
            lags = observe.Lags(rig, PUSH.slug, Record(rig.loaded))
            statuses = [ObjectId() for _ in range(3)]
            await rig.stack.db["statuses"].insert_many([{"_id": id, "pending": [PUSH.slug]} for id in statuses])
            for status in statuses:
                lags.acknowledged(status, 0, counts=True)
            async with observe.watched(rig, lags):
                assert not await lags.drained(1)
            assert lags.waiting == 3

    run(work())


def test_what_the_harness_looks_up_itself_is_nobodys_cost() -> None:
    before, after = (observe.Meters({"mongod": s, "web": s}, {"mongodb": 100 * s}) for s in (1.0, 4.0))
    used = after.since(before, looks=200, look_s={"mongod": 0.01, "harness": 0.01})
    assert used == observe.Meters({"mongod": 1.0, "web": 3.0}, {"mongodb": 100.0})


def test_the_database_is_afterwards_what_it_was_before() -> None:
    async def work() -> None:
        async with virtual_rig((QUERY, PUSH)) as rig:
            settings = SETTINGS.model_copy(update={"rounds": 1})
            await compare(rig, GRAPH, load("undo"), settings)
            db = rig.stack.db
            edges = {(e["follower"], e["followee"]) async for e in db["follows"].find()}
            ids = rig.loaded.ids
            assert edges == {(ids[follower], ids[followee]) for follower, followee in GRAPH.follows()}
            told = {"user_id": {"$ne": NOBODY}}  # no versions of readers
            assert await db["statuses"].count_documents(told) == rig.loaded.statuses > 0
            active = {row["_id"]: set(row["authors"]) async for row in db["active_readers"].find()}
            assert active == {ids[each]: {ids[other] for other in GRAPH.followees_of(each)} for each in range(14)}
            assert await db["blocks"].count_documents({}) == 0

    run(work())


def test_who_has_been_long_away_is_so_again_after_each_phase() -> None:
    lists, morning = replace(CACHE, carrier=PUSH.carrier), load("morning").model_copy(update={"history": 2})

    async def work() -> None:
        async with virtual_rig((lists,)) as rig:
            settings = SETTINGS.model_copy(
                update={"workload": "morning", "phases": (lists.slug,), "rounds": 1, "burn_in_s": 0}
            )
            report = await compare(rig, GRAPH, morning, settings)
            assert report.phases[lists.slug].counts["read_cold"] > 0
            assert await rig.stack.db["active_readers"].count_documents({}) == 0

    run(work())


def test_of_many_readers_those_of_the_round_are_warmed_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages before the run are in proportion to the round; whoever reads in it finds what is kept."""
    monkeypatch.setattr(rounds, "EVERYBODY", 20)
    monkeypatch.setattr(rig_module, "USED_READS", 0)
    graph, reads = powerlaw(150, 3, 1), load("read-heavy").model_copy(update={"history": 2})
    warmed: list[int] = []
    right = Rig.warm

    async def warm(self: Rig, slug: str, limit: int, readers: Sequence[int], progress: Progress = silent) -> None:
        warmed.append(len(readers))
        await right(self, slug, limit, readers, progress)

    monkeypatch.setattr(Rig, "warm", warm)
    report = compared((PUSH,), reads, graph, rounds=1, seconds=1, burn_in_s=0, rate=30)
    assert report.graph.readers == 150
    assert warmed[0] <= 30
    assert report.phases["push"].counts["read_cold"] == 0
    assert report.phases["push"].checked_pages >= warmed[0]


def test_whom_a_round_has_concerned_is_checked_and_others_in_every_round() -> None:
    graph = powerlaw(400, 5, 1)
    loaded = Loaded(graph, [ObjectId() for _ in graph.people], {}, range(400))
    record = Record(loaded)
    record.post(ObjectId(), 7, "followers")
    assert 7 in checked(record, range(400), Random(1)), "whoever posts is concerned"
    record.follow(8, 9) if not record.follows(8, 9) else record.unfollow(8, 9)
    concerned = record.touched()
    assert {7, 8, 9, *(who for who, whom in graph.follows() if whom == 7)} == concerned
    rounds_checked = [checked(record, range(400), Random(number)) for number in range(2)]
    for some in rounds_checked:
        assert len(set(some)) == len(some) == CHECKED_READERS
        assert len(concerned.intersection(some)) >= min(len(concerned), CHECKED_READERS // 2)
    assert set(rounds_checked[0]) != set(rounds_checked[1])
    assert sorted(checked(record, range(5), Random(1))) == [*range(5)], "there are no more"


def test_the_same_people_read_in_every_round() -> None:
    """Those who were loaded as active, and warmed."""
    some_read = load("read-heavy").model_copy(update={"active": 0.3, "history": 2})
    report = compared((PUSH,), some_read, powerlaw(40, 3, 1), rounds=3, seconds=1, burn_in_s=0)
    assert report.phases["push"].counts["read_warm"] > 30
    assert report.phases["push"].counts["read_cold"] == 0


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError])
def test_what_was_measured_is_shown_whatever_ends_the_run(
    end: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, right = tmp_path / "report.json", Rig.switch
    switched = 0

    async def switch(self: Rig, slug: str) -> None:
        nonlocal switched
        switched += 1
        if switched == 3:
            raise end
        await right(self, slug)

    monkeypatch.setattr(Rig, "switch", switch)
    figures = tmp_path / "report.csv"
    options = ("--graph", "powerlaw:12:2", "--phases", TWO, "--rounds", "2", "--seconds", "0.5", "--csv", str(figures))
    done = bench("compare", "--stack", "memory", "--allow-standins", *options, "--json", str(written))
    assert done.exit_code == (130 if end is KeyboardInterrupt else 1)
    assert "BROKEN OFF: 2 of 4 are missing" in done.output
    report = read_report(written)
    assert isinstance(report, Comparison)
    assert [cell.phase for cell in report.cells] == TWO.split(",")
    assert report.unfinished
    header, *lines = figures.read_text().splitlines()
    assert header.split(",")[-2:] == ["meaningless", "broken_off"]
    assert all(line.endswith(",True,True") for line in lines)


def test_what_was_measured_is_shown_where_the_servers_do_not_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, right = tmp_path / "report.json", rig_module.servers

    @contextmanager
    def servers(level: Level, allow_standins: bool) -> Iterator[tuple[Addresses, Path, Config]]:
        with right(level, allow_standins) as running:
            yield running
        raise ServersError("redis does not stop")

    monkeypatch.setattr(rig_module, "servers", servers)
    done = bench("compare", "--stack", "memory", "--allow-standins", *SMALL, "--json", str(written))
    assert done.exit_code == 2
    assert "redis does not stop" in done.output
    assert "Latency" in done.output
    assert isinstance(read_report(written), Comparison)


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
@pytest.mark.parametrize("full", ["json", "csv", "html"])
def test_a_full_disk_takes_no_table_and_no_other_file_along(full: str, tmp_path: Path) -> None:
    files = {kind: FULL if kind == full else tmp_path / kind for kind in ("json", "csv", "html")}
    options = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    done = bench("compare", "--stack", "memory", "--allow-standins", *SMALL, *options)
    assert done.exit_code == 2
    assert "No space left on device" in done.output
    assert "Latency" in done.output
    assert all(file.stat().st_size for file in files.values() if file != FULL)


def test_loading_says_how_far_it_is() -> None:
    said: list[tuple[str, int, int]] = []

    async def work() -> None:
        async with virtual_rig((QUERY,)) as rig:
            await rig.load(GRAPH, 1, 10, range(14), progress=lambda *step: said.append(step))

    run(work())
    last = {what: (done, total) for what, done, total in said}
    assert list(last) == [
        "users", "follows", "index by followee", "circles", "statuses", "active_readers",
    ]  # fmt: skip
    assert all(done == total > 0 for done, total in last.values())


SMALL = ("--graph", "powerlaw:12:2", "--phases", "query", "--rounds", "1", "--seconds", "0.5", "--rate", "20")
FEW = ("--graph", "powerlaw:12:2")


@pytest.mark.parametrize(
    "words",
    [
        ("compare", *SMALL),
        ("targets",),
        ("http", *FEW),
        ("backlog", *FEW),
        ("messages",),
        ("fanout",),
        ("read",),
        ("crossover",),
        ("units",),
    ],
    ids=lambda words: words[0],
)
def test_every_command_measures_on_the_loop_of_a_web_process(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page looks dearer on asyncio's own, by more than some of the differences that are measured."""
    loops: list[asyncio.AbstractEventLoop] = []

    @contextmanager
    def servers(*_: object) -> Iterator[tuple[Addresses, Path, Config]]:
        yield STAND_INS, Path(), Config()

    @asynccontextmanager
    async def rig(*_: object) -> AsyncIterator[Rig]:
        loops.append(asyncio.get_running_loop())
        raise BenchRefused("the loop is known")
        yield

    monkeypatch.setattr(rig_module, "servers", servers)
    monkeypatch.setattr(rig_module, "rig", rig)
    assert "the loop is known" in bench(*words).output
    factory = _uvicorn(Starlette(), Config()).config.get_loop_factory()
    assert factory
    assert factory.__module__.startswith("uvloop") == bool(find_spec("uvloop"))
    with closing(factory()) as theirs:
        assert [type(loop) for loop in loops] == [type(theirs)]


def test_standins_are_refused_unless_asked_for(tmp_path: Path) -> None:
    refused = bench("compare", "--stack", "memory", *SMALL)
    assert refused.exit_code == 2
    assert "--allow-standins" in refused.output


def test_every_figure_of_standins_is_marked(tmp_path: Path) -> None:
    outputs = {kind: tmp_path / f"report.{kind}" for kind in ("json", "csv", "html")}
    options = [word for kind, path in outputs.items() for word in (f"--{kind}", str(path))]
    done = bench("compare", "--stack", "memory", "--allow-standins", *SMALL, "--seconds", "3", *options)
    assert done.exit_code == 0, done.output
    assert done.output.count("MEANINGLESS") == 3, "what is said, and both tables"
    report = read_report(outputs["json"])
    assert isinstance(report, Comparison)
    assert (report.meaningless, report.unfinished) == (True, False)
    assert report.settings.seed == 1
    assert str(tmp_path) not in outputs["json"].read_text()
    lines = outputs["csv"].read_text().splitlines()
    assert all(line.endswith(",True,False") for line in lines[1:])
    page = outputs["html"].read_text()
    assert "MEANINGLESS" in page
    assert "<svg" in page
    assert not any(outside in page for outside in ("http://", "https://", "src=", "@import", "<script"))


def test_wrong_pages_are_exit_status_1_and_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Timelines.page

    async def page(*asked: Any, **more: Any) -> Page:
        return forgetful(await right(*asked, **more))

    monkeypatch.setattr(Timelines, "page", page)
    written = tmp_path / "report.json"
    done = bench("compare", "--stack", "memory", "--allow-standins", *SMALL, "--json", str(written))
    assert done.exit_code == 1
    assert "lacks" in done.output
    assert "p99" not in done.output
    assert not written.exists()


def test_a_wrong_page_takes_the_figures_before_it_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Timelines.page

    async def page(*asked: Any, **more: Any) -> Page:
        found = await right(*asked, **more)
        return forgetful(found) if more["phase"] == PUSH.slug else found

    monkeypatch.setattr(Timelines, "page", page)
    written = tmp_path / "report.json"
    options = ("--graph", "powerlaw:12:2", "--phases", TWO, "--rounds", "1", "--seconds", "0.5")
    done = bench("compare", "--stack", "memory", "--allow-standins", *options, "--json", str(written))
    assert done.exit_code == 1
    assert "p99" not in done.output
    assert not written.exists()


def test_where_operations_fail_the_files_are_written_and_the_exit_status_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def post(*of: Any) -> Any:
        asked = next(posts)
        if asked % 2:
            raise Failed("HTTP 503")
        return await right(*of)

    right, posts, written = InProcess.post, count(), tmp_path / "report.json"
    monkeypatch.setattr(InProcess, "post", post)
    monkeypatch.setattr(rounds, "SETTLE_PAUSE_S", 0)
    options = ("--stack", "memory", "--allow-standins", *SMALL, "--workload", "post-heavy", "--json", str(written))
    done = bench("compare", *options)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit), done.output
    report = read_report(written)
    assert isinstance(report, Comparison)
    assert report.phases[QUERY.slug].errors["post: HTTP 503"] > 0


def test_where_deliveries_are_not_over_the_exit_status_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drained(self: observe.Lags, within_s: float) -> bool:
        return False

    monkeypatch.setattr(observe.Lags, "drained", drained)
    done = bench("compare", "--stack", "memory", "--allow-standins", *SMALL)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit), done.output
    assert "Latency" in done.output


def test_a_page_that_is_refused_while_pages_are_compared_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(self: rounds.Run, readers: Sequence[int]) -> int:
        raise Failed("HTTP 503")

    monkeypatch.setattr(rounds.Run, "check", check)
    done = bench("compare", "--stack", "memory", "--allow-standins", *SMALL)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert done.output.splitlines()[-1] == "not answered, so the run has failed: HTTP 503"


@pytest.mark.parametrize("error", [Failed("HTTP 503"), WrongAnswer("lacks 1"), NotDelivered("lacks 1")])
@pytest.mark.parametrize("depth", range(3))
@pytest.mark.parametrize(
    "command", [("compare", "--graph", "powerlaw:12:2"), ("messages",)], ids=lambda words: words[0]
)
def test_what_tasks_end_with_is_told_as_if_there_were_none(
    error: Exception, depth: int, command: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = error
    for _ in range(depth):
        raised = ExceptionGroup("tasks", [raised])

    def measured(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("benchmarks.cli._measured", measured)
    done = bench(*command)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert done.output.splitlines()[-1].endswith(f": {error}")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--phases", "query,pull"), "no 'pull'"),
        (("--phases", ""), "no ''"),
        (("--rate", "1", "--clients", "1"), "give one of them"),
        (("--graph", "powerlaw:2"), "powerlaw:USERS:MEAN"),
        (("--graph", "nowhere.txt"), "nowhere.txt"),
        (("--workload", "nothing"), "read-heavy"),
        (("--servers", "urls", "--stack", "servers"), "--servers names others"),
        (("--through", "api", "--stack", "memory", "--allow-standins"), "inprocess"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: tuple[str, ...], complaint: str) -> None:
    refused = bench("compare", *options)
    assert refused.exit_code == 2
    assert complaint in refused.output
    assert "Traceback" not in refused.output


def test_workloads_are_listed_with_who_loses() -> None:
    assert bench("workloads").output.count("loses here") == 7


# Beginnings of rows; a backlog is in test_capacity.
ROWS = ("fanout", "read-push", "cold", "page-redis", "post-http", "two")
LONG_ROWS = ("page-http", "page-pulled", "post-stream", "messages")


def promised(*rows: str) -> tuple[str, ...]:
    return ("targets", "--scale", "0.01", *(word for row in rows for word in ("--only", row)))


@pytest.mark.servers
@pytest.mark.parametrize(
    "command",
    [
        promised(*ROWS),
        pytest.param(promised(*LONG_ROWS), marks=pytest.mark.scale),
        ("fanout", "--max-followers", "100", "--repeats", "1"),
        ("read", "--max-followees", "10", "--repeats", "2"),
        pytest.param(("crossover", "--followers", "100", "--pages", "9", "--turns", "1"), marks=pytest.mark.scale),
        ("units", "--count", "4", "--rounds", "1"),
    ],
    ids=lambda command: command[0],
)
def test_measurements_run_for_real(command: tuple[str, ...], tmp_path: Path) -> None:
    written, page = tmp_path / "report.json", tmp_path / "page.html"
    with real_servers():
        done = bench(*command, "--json", str(written), "--html", str(page))
    assert done.exit_code == 0, done.output
    report = read_report(written)
    assert report.kind == command[0]
    assert report.write_concern == "majority"
    assert all(grid.rows for grid in grids(report))
    assert "How it was measured" in page.read_text()


@pytest.mark.parametrize("option", ["--json", "--csv", "--html"])
def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(option: str, tmp_path: Path) -> None:
    done = bench("compare", "--stack", "memory", "--allow-standins", *SMALL, option, str(tmp_path / "no" / "file"))
    assert done.exit_code == 2
    assert "No such file or directory" in done.output
    assert "Latency" not in done.output


@pytest.mark.parametrize(("one", "other"), [("--json", "--csv"), ("--csv", "--html"), ("--json", "--html")])
def test_two_files_that_are_one_are_refused_before_anything_is_measured(one: str, other: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    files = (one, str(tmp_path / "file"), other, str(tmp_path / "link"))
    done = bench("compare", "--stack", "memory", "--allow-standins", *SMALL, *files)
    assert done.exit_code == 2
    assert "a file each" in done.output
    assert "Latency" not in done.output


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_what_is_no_number_is_refused(number: str) -> None:
    assert bench("compare", "--rate", number).exit_code == 2
