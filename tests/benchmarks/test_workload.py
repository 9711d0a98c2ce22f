"""Workloads are data: every one of ours is complete, wrong ones are refused by name, and a seed decides everything."""

import hashlib
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import get_args

import pytest

from app.demo.graph import powerlaw
from app.models import User
from benchmarks.oracle import Oracle
from benchmarks.workload import Cast, Kind, Operations, Workload, WorkloadError, load, names, populated
from tests.world import SLUGS

DIGEST = """
from itertools import islice
from hashlib import sha256
from app.demo.graph import powerlaw
from benchmarks.workload import Operations, load
made = list(islice(Operations(load("undo"), powerlaw(50, 5, 1), 7), 500))
print(sha256(repr(made).encode()).hexdigest())
"""


def test_the_workloads_of_the_project() -> None:
    assert set(names()) == {"read-heavy", "post-heavy", "celebrity", "sleepers", "morning", "undo", "wide"}


@pytest.mark.parametrize("name", names())
def test_a_workload_says_what_it_does(name: str) -> None:
    """The header's percentages are those of the operations."""
    workload = load(name)
    assert workload.name == name
    said = {word for word in workload.mix_says.replace(" %", "%").split() if word.endswith("%")}
    assert said == {f"{share:.0%}" for share in workload.operations.values() if share}
    assert workload.loses_here.split(":")[0].replace(" and ", ", ").split(", ")[0] in SLUGS


@pytest.mark.parametrize("name", names())
def test_same_seed_same_operations(name: str) -> None:
    workload = load(name)
    graph = populated(powerlaw(60, 6, 1), workload, 1)
    first, again, other = (list(islice(Operations(workload, graph, seed), 400)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_seed_means_the_same_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            cwd=Path(__file__).parents[2],
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(next(iter(digests)).strip()) == len(hashlib.sha256().hexdigest())


def test_operations_can_be_done() -> None:
    """Every unfollow and block ends a follow, nobody follows across a block or twice, what is deleted was posted."""
    graph = powerlaw(40, 6, 1)
    ids = [User.model_construct().id for _ in graph.people]
    record = Oracle(follows={(ids[follower], ids[followee]) for follower, followee in graph.follows()})
    posted: dict[int, int] = {}
    seen = set()
    for operation in islice(Operations(load("undo"), graph, 5), 3_000):
        seen.add(operation.kind)
        one = ids[operation.who]
        two = ids[operation.other] if operation.other is not None else one
        match operation.kind:
            case "post":
                posted[operation.number] = operation.who
            case "delete":
                assert operation.target is not None
                assert posted.pop(operation.target) == operation.who
            case "follow":
                assert (one, two) not in record.follows
                assert not record.across_block(one, two)
                record.follows.add((one, two))
            case "unfollow":
                record.follows.remove((one, two))
            case "block":
                assert (one, two) in record.follows
                record.block(one, two)
    assert seen == set(get_args(Kind)) - {"older"}


def test_sleepers_do_not_read() -> None:
    graph, workload = powerlaw(200, 6, 1), load("sleepers")
    cast = Cast(workload, graph, 1)
    readers = {o.who for o in islice(Operations(workload, graph, 1), 2_000) if o.kind == "read"}
    assert len(cast.readers) == 10
    assert readers <= set(cast.readers)


def test_wide_readers_follow_as_many_as_there_are() -> None:
    workload = load("wide")
    graph = populated(powerlaw(100, 3, 1), workload, 1)
    assert len(graph.people) == 120
    assert sum(follower == 119 for follower in graph.followers) == 100


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


HEADER = 'name="mine"\nexample="a"\nmix="b"\ndistribution="c"\nloses_here="query: d"\n'


def test_a_workload_of_ones_own(tmp_path: Path) -> None:
    mine = load(str(own(tmp_path, HEADER + "[operations]\nread = 0.5\npost = 0.5\n")))
    assert isinstance(mine, Workload)
    assert mine.operations["post"] == 0.5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HEADER + "[operations]\nread = 0.5\n", "operations: Value error, the shares sum up to 0.5, not to 1"),
        (HEADER + "[operations]\nread = 1\nlike = 0\n", "operations.like.[key]: Input should be 'read', "),
        (HEADER + 'readers = "everyone"\n[operations]\nread = 1\n', "readers: Input should be"),
        (HEADER + "celebrities = 2\n[operations]\nread = 1\n", "celebrities and celebrity_posts go together"),
        ('name="mine"\n[operations]\nread = 1\n', "example: Field required"),
        ("name = ", "not a TOML file"),
    ],
)
def test_a_wrong_workload_is_refused_by_field(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(WorkloadError, match=r"mine\.toml") as refusal:
        load(str(own(tmp_path, text)))
    assert complaint in str(refusal.value)


def test_an_unknown_workload_names_the_known_ones() -> None:
    with pytest.raises(WorkloadError, match="read-heavy"):
        load("read-only")
    with pytest.raises(WorkloadError, match=r"nowhere\.toml: cannot be read"):
        load("nowhere.toml")
