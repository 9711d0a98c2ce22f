"""The judge of live runs notices what it is there for, and a short run of the real thing finds nothing."""

import asyncio
import json
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from app.demo.graph import powerlaw
from benchmarks.live import Plan, run
from benchmarks.live.outcome import Outcome, Silent, Step
from benchmarks.live.reader import Reader
from benchmarks.live.state import State
from benchmarks.live.truth import Truth
from benchmarks.oracle import Relation
from benchmarks.wire import EventSource, WebSocket
from tests.conftest import real_servers

PLAN = Plan(connections=1, rates=(1,), seconds=1, silent_s=0, faults=0, disconnects=0, seed=1)
LONG = {"id": "b", "text": "é" * 200}
EVENTS = [("i1", "ready", {"unread": 0}), ("i2", "status", LONG), ("i3", "likes", {"id": "b"})]


def as_sse(pieces: list[tuple[str, str, Any]]) -> bytes:
    body = b": still here\n\n" + b"".join(
        f"id: {id}\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
        for id, name, data in pieces
    )
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks


def as_frames(pieces: list[tuple[str, str, Any]]) -> bytes:
    frames = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x89\x00"
    for id, name, data in pieces:
        text = json.dumps({"id": id, "event": name, "data": data}, ensure_ascii=False).encode()
        length = bytes([len(text)]) if len(text) < 126 else b"\x7e" + len(text).to_bytes(2, "big")
        frames += b"\x81" + length + text
    return frames


class Written:
    """A transport."""

    def __init__(self) -> None:
        self.said, self.is_aborted = b"", False

    def write(self, data: bytes) -> None:
        self.said += data

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "stream"), [(EventSource, as_sse(EVENTS)), (WebSocket, as_frames(EVENTS))])
@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_a_wire_hears_every_event_in_whatever_pieces_it_comes(
    kind: type[EventSource] | type[WebSocket], stream: bytes, piece: int
) -> None:
    heard: list[tuple[str, str, Any]] = []
    wire = kind("h", "t", None, lambda *event: heard.append(event))
    wire.connection_made(transport := Written())
    for at in range(0, len(stream), piece):
        wire.data_received(stream[at : at + piece])
    assert heard == EVENTS
    assert (b"\x8a\x80" in transport.said) is (kind is WebSocket), "a ping is answered"
    for cut in (1, len(stream) // 2, len(stream) - 3):
        heard.clear()
        wire = kind("h", "t", "i0", lambda *event: heard.append(event))
        wire.connection_made(transport := Written())
        wire.cut_after = cut
        for at in range(0, cut, piece):
            wire.data_received(stream[at : at + piece])
        assert transport.is_aborted
        assert heard == EVENTS[: len(heard)] != EVENTS


class Around:
    host, address = "h", ("h", 1)

    def __init__(self) -> None:
        self.step: Step | None = Step(rate=1)
        self.outcome, self.seen, self.acts = Outcome(plan=PLAN), True, 0
        self.now = State({}, {}, 0)

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(work)

    async def fetched(self, reader: Reader) -> State:
        return State(dict(self.now.statuses), dict(self.now.notes), self.now.unread)

    def came(self, *_: Any) -> None: ...

    def may_see(self, *_: Any) -> bool:
        return self.seen

    def acts_since(self, moment_s: float) -> int:
        return self.acts


NOTE = {"seq": 1, "kind": "like", "from": {"id": "p"}, "status": {"id": "a"}, "unread": 1}
TOLD = [("status", {"id": "a"})]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("events", "found"),
    [
        ([*TOLD, ("likes", {"id": "a", "likes": 2})], {}),
        ([*TOLD, *TOLD], {"doubled": 1}),
        ([*TOLD, ("status_gone", {"id": "a"}), *TOLD], {}),
        ([*TOLD, *[("status", {"id": f"b{n:02}"}) for n in range(20)], *TOLD], {}),
        ([("notification", NOTE)] * 2, {"doubled": 1}),
        ([("notification", NOTE), ("notification_gone", {"seq": 1, "unread": 0}), ("notification", NOTE)], {}),
        ([("hidden", {}), *TOLD], {"leaked": 1}),
        ([("hidden", {}), ("notification", NOTE)], {"leaked": 1}),
        ([("reset", {})], {"early": 1}),
        ([("late", {}), ("reset", {})], {}),
    ],
)
async def test_what_a_reader_is_told_is_judged(events: list[tuple[str, Any]], found: dict[str, int]) -> None:
    around = Around()
    reader = Reader(around, 1, "t", EventSource, Random(1))
    hear = reader._heard
    hear("i0", "ready", {"unread": 0})
    await reader.shows.wait()
    for number, (name, data) in enumerate(events):
        if name == "hidden":
            around.seen = False
        elif name == "late":
            around.acts = 500
        else:
            hear(f"i{number}", name, data)
    outcome = around.outcome
    early = {"early": outcome.early_resets} if outcome.early_resets else {}
    assert {**outcome.wrongs, **early} == found
    assert outcome.good is not bool(found)


@pytest.mark.anyio
async def test_what_was_not_read_for_a_while_is_no_delay() -> None:
    """It is read once the reader goes on, and was at their connection all the time."""
    reader, time = Reader(Around(), 1, "t", EventSource, Random(1)), asyncio.get_running_loop().time
    reader._wire = EventSource("h", "t", None, reader._heard)
    reader._wire.connection_made(Written())
    reader._heard("i0", "ready", {"unread": 0})
    posted_s = time()
    assert reader.was_open_since(posted_s)
    await reader.read_nothing(0)
    assert not reader.was_open_since(posted_s)
    assert reader.was_open_since(time())


def test_a_state_with_events_applied_is_compared_with_what_is_fetched() -> None:
    page = {"statuses": [{"id": f"{n:02}", "likes": 0, "author": {"handle": "ann", "name": "Ann"}} for n in range(20)]}
    note = {"seq": 1, "kind": "like", "from": {"id": "p"}, "status": {"id": "a", "likes": 1}}
    notes = {"notifications": [note], "unread": 1}
    state, now = State.fetched(page, notes), State.fetched(json.loads(json.dumps(page)), notes)
    assert not list(state.differences(now))
    steps: list[tuple[str, Any, int]] = [
        ("status", {"id": "20", "likes": 0, "author": {"handle": "ann", "name": "Ann"}}, 2),  # and 00 is off the page
        ("likes", {"id": "19", "likes": 1, "you_like": True}, 3),
        ("person", {"handle": "ann", "name": "Anna"}, 21),
        ("status_gone", {"id": "20"}, 20 + 1 - 1),
        ("notification_gone", {"seq": 1, "unread": 0}, 22),
    ]
    for event, data, differences in steps:
        for _ in range(2):
            state.apply(event, data)
            assert len(list(state.differences(now))) == differences, event


def test_what_somebody_may_have_seen_follows_what_was_asked_for() -> None:
    truth = Truth({(1, 2)}, {(2, 1)})
    assert truth.may_see(1, 2, "followers", 0, 1)
    assert truth.may_see(1, 2, "circle", 0, 1)
    assert not truth.may_see(1, 2, "mutuals", 0, 1)
    assert not truth.may_see(2, 1, "followers", 0, 1)

    def unfollow(relation: Relation) -> Relation:
        return relation._replace(follows=False)

    truth.asked(1, 2, unfollow, 5)
    assert truth.may_see(1, 2, "followers", 6, 7), "it may not have been made yet"
    truth.answered(1, 2, unfollow, 8)
    assert truth.may_see(1, 2, "followers", 7, 9), "it was posted before"
    assert not truth.may_see(1, 2, "followers", 9, 10)
    assert not truth.relation(2, 1).followed_back, "the other end of the edge"
    assert not truth.is_steady(2, 1)


def test_figures_are_shown_where_there_are_samples_for_them() -> None:
    step = Step(rate=1)
    for _ in range(999):
        step.delay(0.001)
    assert "too few" in step.line()
    assert set(step.model_dump()["delay_ms"]) == {"p50", "p90", "max"}
    step.delay(0.001)
    assert "too few" not in step.line()
    silent = Silent(kind="sse", few=50, many=549, rss_few=0, rss_many=10**7)
    assert silent.bytes_each is None
    assert silent.model_copy(update={"many": 550}).bytes_each == 20_000


@pytest.mark.servers
def test_a_short_run(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(connections=24, rates=(10,), seconds=4, silent_s=0.2, faults=2, disconnects=40, seed=3)
    with real_servers():
        code = run(plan, powerlaw(60, 8, 1), as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert code == 0, result
    assert [kind for _, kind in result["happened"]] == ["kill web", "kill redis"]
    assert result["compared"] == 24
    assert result["disconnects"] >= 40
    assert result["events"]["status"] > 50
    assert {silent["kind"] for silent in result["silent"]} == {"sse", "websocket"}
