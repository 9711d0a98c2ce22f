"""The harness's record: in arrays, and yet the same pages as the oracle's plain sets."""

from random import Random

from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from app.demo.graph import powerlaw
from app.demo.seed import World
from benchmarks.oracle import Oracle, Told
from benchmarks.record import Loaded, Record
from tests.dates import NOON

PEOPLE = 12
GRAPH = powerlaw(PEOPLE, 3, 1)


def both() -> tuple[Record, Oracle[ObjectId]]:
    world = World(GRAPH, 1, NOON, 3)
    loaded = Loaded(GRAPH, world.ids, world.circle_of, range(0, PEOPLE, 2))
    statuses = list(loaded.noting(world.statuses(60)))
    return Record(loaded), Oracle.of(follows=world.follows(), circles=world.circles(), statuses=statuses)


@given(st.integers(0, 2**32))
def test_whatever_happens_a_reader_sees_what_the_plain_sets_say(seed: int) -> None:
    random, (record, plain) = Random(seed), both()
    ids = record.loaded.ids
    at_first = [plain.timeline(id) for id in ids]
    mine: list[ObjectId] = []
    for _ in range(60):
        one, other = random.sample(range(PEOPLE), 2)
        match random.choice(("follow", "follow", "unfollow", "block", "post", "post", "delete")):
            case "follow":
                if plain.across_block(ids[one], ids[other]):
                    continue
                record.follow(one, other)
                plain.follows.add((ids[one], ids[other]))
            case "unfollow":
                record.unfollow(one, other)
                plain.follows.discard((ids[one], ids[other]))
            case "block":
                record.block(one, other)
                plain.block(ids[one], ids[other])
            case "post":
                mine.append(ObjectId())
                audience = random.choice(("followers", "mutuals", "circle"))
                record.post(mine[-1], one, audience)
                plain.statuses[mine[-1]] = Told(ids[one], "", audience)
            case "delete" if mine:
                record.delete(mine[-1])
                plain.delete(mine.pop())
    for person in range(PEOPLE):
        assert record.oracle(person).timeline(ids[person]) == plain.timeline(ids[person])
        assert plain.timeline(ids[person]) == at_first[person] or person in record.touched()
        followers = {ids.index(who) for who, whom in plain.follows if whom == ids[person]}
        assert record.followers(person, active=False) == len(followers)
        assert record.followers(person, active=True) == len([each for each in followers if each % 2 == 0])
        assert record.last_follower(person) == max(followers, default=None)
    loaded = set(GRAPH.follows())
    now = {(ids.index(who), ids.index(whom)) for who, whom in plain.follows}
    assert (record.followed, record.unfollowed) == (now - loaded, loaded - now)
