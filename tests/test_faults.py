"""Fault runs: the oracle knows missing, wrong and doubled, and a short run of the real thing finds nothing."""

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from app.demo.graph import powerlaw
from benchmarks import attack, live
from benchmarks.dialogue import Dialogue
from benchmarks.faults import Plan, run
from benchmarks.faults.outcome import NeverRecovered
from benchmarks.faults.worlds import Post, Read, Worlds
from benchmarks.oracle import Relation
from tests.conftest import real_servers

FOLLOWS, NOT = frozenset({Relation()}), frozenset({Relation(follows=False)})


def read(*shown: tuple[str, str], before: str | None = None, next: str | None = None) -> Read:
    return Read("r", ("a",), began_s=10, ended_s=11, shown=shown, before=before, next=next)


def oracle(relations: frozenset[Relation], **changes: float) -> Worlds:
    """Statuses 1, 2 and 3 of `a`, acknowledged before the read unless `changes` of the second say otherwise."""
    made = Worlds(relations={("r", "a"): relations})
    for number in (1, 2, 3):
        post = Post("a", f"text {number}", "followers", began_s=0)
        made.begun(post)
        assert not list(made.acknowledge(post, str(number), 1))
        if number == 2:
            vars(post).update(changes)
    return made


ONE, TWO, THREE = ("1", "text 1"), ("2", "text 2"), ("3", "text 3")


@pytest.mark.parametrize(
    ("made", "page", "kinds"),
    [
        (oracle(FOLLOWS), read(THREE, TWO, ONE), []),
        (oracle(FOLLOWS), read(THREE, ONE), ["missing"]),
        (oracle(FOLLOWS), read(THREE, TWO, next="2"), []),
        (oracle(FOLLOWS), read(ONE, before="2"), []),
        (oracle(FOLLOWS), read(before="2"), ["missing"]),
        (oracle(FOLLOWS), read(TWO, THREE, ONE), ["wrong"]),
        (oracle(FOLLOWS), read(THREE, TWO, TWO, ONE), ["doubled", "doubled"]),
        (oracle(FOLLOWS), read(("4", "text 2"), THREE, TWO, ONE), ["doubled", "doubled"]),
        (oracle(FOLLOWS), read(("4", "nobody wrote this"), THREE, TWO, ONE), ["wrong"]),
        (oracle(FOLLOWS, acknowledged_s=10.5), read(THREE, ONE), []),
        (oracle(FOLLOWS, acknowledged_s=10.5), read(THREE, TWO, ONE), []),
        (oracle(FOLLOWS, delete_began_s=5), read(THREE, ONE), []),
        (oracle(FOLLOWS, delete_began_s=5), read(THREE, TWO, ONE), []),
        (oracle(FOLLOWS, delete_began_s=5, deleted_s=6), read(THREE, TWO, ONE), ["wrong"]),
        (oracle(NOT), read(), []),
        (oracle(NOT), read(TWO), ["wrong"]),
        (oracle(FOLLOWS | NOT), read(TWO), []),
        (oracle(frozenset({Relation(blocked=True)})), read(TWO), ["wrong"]),
    ],
)
def test_the_oracle(made: Worlds, page: Read, kinds: list[str]) -> None:
    assert [violation.kind for violation in made.check(page)] == kinds


def test_a_change_under_way_may_be_made_or_not() -> None:
    made = oracle(FOLLOWS)

    def unfollow(relation: Relation) -> Relation:
        return relation._replace(follows=False)

    made.asked("r", "a", unfollow)
    assert not list(made.check(read()))
    assert not list(made.check(read(THREE)))
    made.answered("r", "a", unfollow)
    assert [violation.kind for violation in made.check(read(THREE))] == ["wrong"]


def test_one_post_that_was_stored_twice() -> None:
    made = Worlds(relations={("r", "a"): FOLLOWS})
    post = Post("a", "text", "followers", began_s=0)
    made.begun(post)
    assert not list(made.check(read(("1", "text"))))
    assert [violation.kind for violation in made.acknowledge(post, "2", 1)] == ["doubled"]


A, B, C = (1, "a"), (2, "b"), (3, "c")


@pytest.mark.parametrize(
    ("shown", "kinds"),
    [
        ([C, B, A], []),
        ([B, A], ["missing"]),
        ([], ["missing"] * 3),
        ([C, A], ["wrong", "missing"]),
        ([B, C, A], ["wrong"]),
        ([(3, "b"), (2, "c"), A], ["wrong", "wrong"]),
        ([(4, "b"), C, B, A], ["doubled"]),
        ([C, B, B, A], ["wrong", "doubled"]),
        ([(4, "unknown"), C, B, A], []),
        ([(4, "nobody's"), C, B, A], ["wrong"]),
    ],
)
def test_what_is_shown_of_a_dialogue(shown: list[tuple[int, str]], kinds: list[str]) -> None:
    made = Dialogue()
    for seq, text in (A, B, C):
        made.begin(text)
        assert not list(made.acknowledge(text, seq))
    made.begin("unknown")  # whether it was stored
    assert [wrong.kind for wrong in made.check(shown, made.acknowledged)] == kinds


def test_numbers_of_a_dialogue_follow_the_order_in_which_it_was_acknowledged() -> None:
    made = Dialogue()
    for text in ("a", "b"):
        made.begin(text)
    assert not [*made.acknowledge("b", 1), *made.acknowledge("a", 2)], "both were on their way"
    assert [wrong.kind for wrong in made.acknowledge("a", 3)] == ["doubled"]
    made.begin("c")
    assert [wrong.kind for wrong in made.acknowledge("c", 2)] == ["wrong"]


LIVE = live.Plan(connections=1, rates=(1,), seconds=1, silent_s=0, faults=0, disconnects=0, seed=1)
AWAY = ExceptionGroup("a load", [ExceptionGroup("a task of it", [NeverRecovered("redis is away")])])


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(("end", "said"), [(AWAY, "redis is away"), (KeyboardInterrupt(), "KeyboardInterrupt")])
@pytest.mark.parametrize(
    ("measure", "options", "system", "at"),
    [
        (run, (Plan(0, 0, 1),), "faults.serving", "faults.Load.prepare"),
        (live.run, (LIVE, powerlaw(9, 2, 1)), "live.served", "live._observe"),
        (attack.run, (1.0, 1.0), "attack.serving", "attack._observe"),
    ],
    ids=["faults", "live", "attack"],
)
def test_what_was_found_is_shown_whatever_ends_the_run(
    measure: Callable[..., int],
    options: tuple[object, ...],
    system: str,
    at: str,
    end: BaseException,
    said: str,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def nothing_runs(*_: object, **__: object) -> Iterator[Mock]:
        yield Mock(
            url="http://127.0.0.1:9",
            feedlab=Mock(return_value="no dead letters"),
            process=Mock(poll=Mock(return_value=None)),
        )

    async def ends(*_: object) -> None:
        raise end

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for the logs that are kept
    monkeypatch.setattr("benchmarks.live.People.entered", MagicMock())
    monkeypatch.setattr(f"benchmarks.{system}", nothing_runs)
    monkeypatch.setattr(f"benchmarks.{at}", ends)
    if end is AWAY:
        assert measure(*options, as_json=as_json) == 1
    else:
        with pytest.raises(KeyboardInterrupt):
            measure(*options, as_json=as_json)
    shown = capsys.readouterr().out
    assert said in (json.loads(shown)["gave_up"] if as_json else shown)


@pytest.mark.servers
def test_a_short_run(capsys: pytest.CaptureFixture[str]) -> None:
    with real_servers():
        code = run(Plan(faults=4, seconds=5, seed=5), as_json=True, crowd=powerlaw(50, 3, 1))
    result = json.loads(capsys.readouterr().out)
    assert code == 0, result
    assert result["faults"] == 4
    assert result["posts_acknowledged"] > 0
    assert result["messages_acknowledged"] > 0
    assert result["pages_checked"] > 50


@pytest.mark.servers
def test_short_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    with real_servers():
        code = attack.run(2.0, 0.02, as_json=True)
    report = attack.Report.model_validate_json(capsys.readouterr().out)
    assert code == 0, report
    assert [each.attack for each in report.beside] == [name for name, _ in attack.ATTACKS]
    for each in report.beside:
        assert each.sent > 0, each
        assert each.pages > 0, each
        assert each.to_quiet > 0, each


def beside(**found: object) -> attack.Beside:
    plain = {"attack": "one", "sent": 1, "pages": 1, "p50_ms": 9.0, "slowest_ms": 9.0, "to_quiet": 1.0}
    return attack.Beside.model_validate(plain | {"errors": {"503": 3}, "unclean": [], "recovered_s": 0.1} | found)


@pytest.mark.parametrize(
    ("found", "good"), [({}, True), ({"unclean": ["GET /timeline: 500"]}, False), ({"recovered_s": None}, False)]
)
def test_an_attack_fails_on_what_a_bystander_must_not_have(found: dict[str, object], good: bool) -> None:
    report = attack.Report(quiet_p50_ms=9, beside=[beside(), beside(**found)])
    assert report.good is good
    assert any(("500" if "unclean" in found else "never" if found else "503: 3") in line for line in report.lines())


def test_a_refusal_is_no_page_that_was_quick() -> None:
    answers: list[object] = [None, {"statuses": []}]
    http = AsyncMock(call=AsyncMock(side_effect=answers))

    async def look() -> tuple[list[bool], int]:
        bystander = attack.Bystander(http, [])
        return [await bystander.page() for _ in answers], len(bystander.ms)

    assert asyncio.run(look()) == ([False, True], 1)
