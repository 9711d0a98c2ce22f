"""Messages: what is shown is judged, and a page that is refused shows nothing."""

import json
from itertools import count
from typing import Any

import pytest

from benchmarks.messages import Person, Run, Talk
from benchmarks.rig import BenchRefused
from benchmarks.subject import Http
from tests.benchmarks.virtual import run

HELLO = {"messages": [{"seq": 1, "text": "hello"}], "next": None}
NOTHING: dict[str, Any] = {"messages": [], "next": None}


def judged(monkeypatch: pytest.MonkeyPatch, page: dict[str, Any], refusals: float) -> list[str]:
    """What is wrong with a conversation of one message, whose page is refused so many times before it is shown."""

    async def work() -> list[str]:
        asked = count()

        async def ask(*_: Any) -> tuple[int, bytes]:
            return (503, b"") if next(asked) < refusals else (200, json.dumps(page).encode())

        monkeypatch.setattr(Http, "ask", ask)
        talk = Talk("1", (Person("a"), Person("b", told=[(1, "hello")])))
        talk.dialogue.begin("hello")
        assert not list(talk.dialogue.acknowledge("hello", 1))
        talks = Run([talk], [9], 1, count(), receipts=False)
        await talks.judge()
        return [wrong.kind for wrong in talks.wrongs]

    return run(work())


@pytest.mark.parametrize("refusals", [0, 3])
def test_what_a_page_lacks_is_missing_and_a_refused_one_is_asked_for_again(
    refusals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judged(monkeypatch, HELLO, refusals) == []
    assert judged(monkeypatch, NOTHING, refusals) == ["missing"]


def test_a_page_that_is_refused_for_good_tells_of_no_lost_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchRefused, match="HTTP 503"):
        judged(monkeypatch, HELLO, float("inf"))
