"""The oracle against the definition of `visible`, written out case by case."""

import pytest

from benchmarks.oracle import Oracle, Told

EDGES = {"follows": ("r", "a"), "followed back": ("a", "r"), "in circle": ("a", "r"), "blocks": ("r", "a")}


@pytest.mark.parametrize(
    ("relation", "shown"),
    [
        ((), []),
        (("follows",), ["1 followers"]),
        (("followed back", "in circle"), []),
        (("follows", "followed back"), ["2 mutuals", "1 followers"]),
        (("follows", "in circle"), ["3 circle", "1 followers"]),
        (("follows", "followed back", "in circle", "blocks"), []),
    ],
)
def test_what_a_reader_sees(relation: tuple[str, ...], shown: list[str]) -> None:
    oracle: Oracle[str] = Oracle()
    for audience in ("1 followers", "2 mutuals", "3 circle", "4 followers"):
        oracle.statuses[audience] = Told("a", audience, audience[2:])
    oracle.delete("4 followers")
    oracle.follows = {EDGES[edge] for edge in relation if edge.startswith("follow")}
    oracle.circles = {EDGES[edge] for edge in relation if edge == "in circle"}
    for edge in relation:
        if edge == "blocks":
            oracle.block(*EDGES[edge])
    assert oracle.timeline("r") == shown
    assert oracle.timeline("a") == ["3 circle", "2 mutuals", "1 followers"], "one's own, but for what is deleted"
    assert oracle.page("r", before=None, limit=1) == (shown[:1], len(shown) > 1)


def test_raw_documents() -> None:
    row = {"_id": 1, "user_id": "a", "text": "", "audience": None, "deleted": True}
    follows, blocks = {"follower": "r", "followee": "a"}, {"blocker": "b", "blocked": "r"}
    oracle: Oracle = Oracle.of(  # type: ignore[type-arg]
        statuses=[row, row | {"_id": 2, "audience": "followers", "deleted": False}],
        follows=[follows],
        blocks=[blocks],
        circles=[{"owner": "a", "member": "r"}],
    )
    assert oracle.timeline("r") == [2]
    oracle.delete(2)
    oracle.block("r", "a")
    assert oracle.timeline("r") == []
    assert oracle.across_block("r", "b")
