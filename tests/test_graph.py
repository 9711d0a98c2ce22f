"""Graphs: an edge list is read whole or refused with the line that is wrong; a generated one is what it promises."""

import gzip
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.demo import graph
from app.demo.graph import Graph, GraphError, load, powerlaw

FACEBOOK = Path(__file__).parents[2] / "shared" / "data" / "facebook_combined.txt.gz"

labels = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8).filter(lambda s: s[0] != "#")
pairs = st.lists(st.tuples(labels, labels), min_size=1, max_size=40)


def written(folder: Path, content: bytes, name: str = "graph.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def edges(found: Graph) -> list[tuple[str, str]]:
    return [(found.people[a], found.people[b]) for a, b in found.follows()]


@given(pairs.filter(lambda given_pairs: any(a != b for a, b in given_pairs)), st.booleans(), st.booleans())
def test_an_edge_list_is_read_as_a_set_of_follows(
    tmp_path_factory: pytest.TempPathFactory, given_pairs: list[tuple[str, str]], directed: bool, packed: bool
) -> None:
    content = "\n".join(f"{a}\t{b}" for a, b in given_pairs).encode()
    path = written(tmp_path_factory.mktemp("graph"), gzip.compress(content, mtime=0) if packed else content)
    found = load(path, directed)
    expected = {(a, b) for a, b in given_pairs if a != b}
    if not directed:
        expected |= {(b, a) for a, b in expected}
    assert set(edges(found)) == expected
    assert len(edges(found)) == len(expected)
    assert found.people == tuple(dict.fromkeys(label for pair in given_pairs for label in pair))


def test_comments_blank_lines_and_foreign_line_ends_are_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf# Nodes: 2\r\n\r\n  \na b\r\n")
    assert edges(load(path, directed=True)) == [("a", "b")]


def test_gzip_is_known_by_its_content_not_by_its_name(tmp_path: Path) -> None:
    assert edges(load(written(tmp_path, gzip.compress(b"a b\n", mtime=0), "plain.txt"), directed=True)) == [("a", "b")]
    assert edges(load(written(tmp_path, b"a b\n", "packed.gz"), directed=True)) == [("a", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a b\na\n", ":2: two labels expected, 1 found: 'a'"),
        (b"a b\n\n# ok\na b c\n", ":4: two labels expected, 3 found: 'a b c'"),
        (b"a,b\n", ":1: two labels expected, 1 found: 'a,b'"),
        (b"a b\n\xff\xfe b\n", ":2: not UTF-8 text: '\ufffd\ufffd b'"),
        (b"a \x00\x1b[2J\n", r":1: a label with unprintable characters: 'a \x00\x1b[2J'"),
        (b"a " + b"b" * 65 + b"\n", f":1: a label longer than 64 characters: 'a {'b' * 58}…'"),
        (b"a b\n" + b"#" * 2_000 + b"\n", f":2: longer than 1000 bytes: '{'#' * 60}…'"),
        (b"", ": no pair of labels in it"),
        (b"# only a comment\n", ": no pair of labels in it"),
        (b"1 1\n2 2\n", ": every pair is of a label with itself: nobody follows anybody"),
        (gzip.compress(b"a b\n" * 99, mtime=0)[:-9], ": damaged or cut gzip file (Compressed file ended before"),
        (gzip.compress(b"a b\n", mtime=0)[:10] + b"garbage", ": damaged or cut gzip file ("),
        (gzip.compress(b"a b\n", mtime=0)[:-8] + b"12345678", ": damaged or cut gzip file (CRC check failed"),
        (b"\x1f\x8bnot gzip at all", ": damaged or cut gzip file ("),
    ],
)
def test_a_bad_file_is_refused_with_place_and_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(GraphError) as refused:
        load(path, directed=False)
    assert str(refused.value).startswith(str(path) + message)
    assert str(refused.value).isprintable()


@given(st.binary(max_size=300))
def test_whatever_the_bytes_are_a_graph_or_a_graph_error_comes_out(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = written(tmp_path_factory.mktemp("graph"), content)
    try:
        found = load(path, directed=True)
    except GraphError as refused:
        assert str(path) in str(refused)  # noqa: PT017  # both outcomes are right
    else:
        assert found.people


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"absent\.txt: cannot be read \(No such file"):
        load(tmp_path / "absent.txt", directed=True)
    with pytest.raises(GraphError, match="cannot be read"):
        load(tmp_path, directed=True)


def test_edges_are_found_from_both_ends() -> None:
    found = powerlaw(60, 7, 2)
    for person in range(60):
        assert found.followees_of(person) == [b for a, b in found.follows() if a == person]
        assert found.followers_of(person) == [a for a, b in found.follows() if b == person]
    assert list(found.by_followee.sizes()) == [len(found.followers_of(person)) for person in range(60)]


def test_a_long_reading_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "TOLD_EVERY", 2)
    said: list[tuple[str, int, int]] = []
    load(written(tmp_path, b"a b\nb c\nc d\nd e\n"), True, lambda *step: said.append(step))
    powerlaw(4, 2, 1, lambda *step: said.append(step))
    assert [(done, of) for _, done, of in said] == [(2, 0), (4, 0), (2, 4)]


def test_limits_are_enforced_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, b"a b\nb c\nc d\n")
    monkeypatch.setattr(graph, "MAX_PEOPLE", 3)
    with pytest.raises(GraphError, match=":3: more than 3 people"):
        load(path, directed=True)
    monkeypatch.undo()
    monkeypatch.setattr(graph, "MAX_FOLLOWS", 3)
    with pytest.raises(GraphError, match=r":2: more than .* 3 follow edges"):
        load(path, directed=False)


def test_the_facebook_graph() -> None:
    if not FACEBOOK.exists():
        pytest.skip("the SNAP file facebook_combined.txt.gz is not beside the checkout")
    found = load(FACEBOOK, directed=False)
    assert (len(found.people), len(found.followers)) == (4_039, 176_468)
    assert max(Counter(found.followers).values()) == 1_045


@given(st.data(), st.integers(2, 60), st.integers(0, 2**64))
def test_a_generated_graph_keeps_its_promises(data: st.DataObject, users: int, seed: int) -> None:
    mean = data.draw(st.floats(1, users - 1))
    found = powerlaw(users, mean, seed)
    pairs = list(found.follows())
    assert len(found.people) == len(set(found.people)) == users
    assert len(pairs) == len(set(pairs)) == round(users * mean)
    assert all(a != b for a, b in pairs)
    assert set(found.followers) == set(range(users)), "everybody follows somebody"


def test_a_generated_graph_has_celebrities_and_mutuals() -> None:
    found = powerlaw(2_000, 20, 7)
    followers = sorted(Counter(found.followees).values())
    assert followers[-1] > 8 * 20
    assert followers[len(followers) // 2] < 20, "most people have fewer followers than the mean"
    pairs = set(found.follows())
    assert 0.15 < sum((b, a) in pairs for a, b in pairs) / len(pairs) < 0.6


def test_the_same_seed_gives_the_same_graph_on_every_machine() -> None:
    assert powerlaw(300, 12.5, 1) == powerlaw(300, 12.5, 1)
    assert powerlaw(300, 12.5, 1) != powerlaw(300, 12.5, 2)
    text = "\n".join(f"{a} {b}" for a, b in edges(powerlaw(300, 12.5, 1)))
    assert sha256(text.encode()).hexdigest() == "4330037623249dac12e72be1858f6c7899a7b454fd7d56ba869816fc2f307ef0"


@pytest.mark.parametrize(
    ("users", "mean"), [(1, 1), (0, 1), (-5, 1), (10**9, 1), (10, 0), (10, 0.5), (10, 10), (10, float("nan"))]
)
def test_numbers_out_of_range_are_refused(users: int, mean: float) -> None:
    with pytest.raises(GraphError, match=r"must be from \d+ to"):
        powerlaw(users, mean, 1)


def test_a_graph_that_does_not_fit_in_memory_is_refused() -> None:
    with pytest.raises(GraphError, match="more than 16,000,000 follow edges"):
        powerlaw(1_000_000, 21, 1)
