"""The walkthrough says what is so: every listing is the file's, every experiment runs, and the two editions agree."""

import asyncio
import html
import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import permutations
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from pymongo import MongoClient

from app.cli import main
from app.clock import Clock
from app.config import Config
from app.errors import TooMany
from app.models import User
from app.servers.datadir import DataDirectory
from app.stack import Addresses, Stack, connected
from app.stack.scratch import scratch
from app.walkthrough import book, markdown
from app.walkthrough.book import BookError, Chapter, chapters
from app.walkthrough.directives import beside_the_recorded, findings
from app.walkthrough.drawing import Step, chart_drawing, phase_lanes
from app.walkthrough.experiments import (
    EXPERIMENTS,
    e0_index,
    e1_cliff,
    e2_fan_out,
    e3_acknowledged,
    e4_active,
    e5_told,
    e6_celebrity,
    e7_live,
    e8_conversations,
)
from app.walkthrough.experiments.e0_index import WITH, WITHOUT
from app.walkthrough.experiments.e1_cliff import AS_PHASE_1, ONE
from app.walkthrough.experiments.e8_conversations import INSERT, MESSAGE, Fared
from app.walkthrough.laboratory import LIMIT_S, LOCK_S, Laboratory, run_once
from app.walkthrough.result import (
    MEASURED,
    Bar,
    Chart,
    Check,
    Result,
    Sample,
    compared,
    figure,
    recorded,
    times,
    written,
)
from app.walkthrough.source import Listing, listing
from app.web.walkthrough import prose
from phases import DEFAULT, PHASES
from phases.p1_query import QUERY
from phases.p2_push import PUSH
from phases.p3_queue import QUEUE
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from phases.p6_hybrid import HYBRID
from phases.timelines import Timelines
from tests.dates import NOON, ManualClock
from tests.site import Browser, Site, opened
from tests.world import STAND_INS, World

pytestmark = pytest.mark.anyio
ROOT = Path(markdown.__file__).parents[2]
STARTER = ROOT / "docs/walkthrough/p7_listeners.py"
DEADLINE_S = 60


WHERE = {  # the words of a lesson on message queues, and what stands in the files they lead to, in this order
    "queue (point to point)": ["def offer("],
    "topic (publish and subscribe)": [".publish("],
    "in between: a log with readers": ["class Tailer", "def sealed("],
    "outbox": ["class Outbox"],
    "retry": ["def after_the_outage(", "async def sweep("],
    "dead letter": ["def retry_dead_letters("],
    "deduplication": ["def _job_id(", "def entry_key(", "def notification_key("],
    "order": ["def new_id("],
    "slow consumer": ["MOST_QUEUED"],
}


def named(one: Chapter) -> str:
    return one.slug


def directives(one: Chapter) -> list[tuple[str, str]]:
    text = (book.FOLDER / f"{one.number}-{one.slug}.md").read_text("utf-8")
    return re.findall(r"^::(\w+) ?(.*)$", text, re.MULTILINE)


def text_of(fragment: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", fragment))


# The text


def test_the_story_has_a_beginning_a_chapter_for_each_phase_and_an_end() -> None:
    assert [one.slug for one in chapters()] == [
        "beginning",
        *(phase.slug for phase in PHASES),
        "live",
        "conversations",
        "next",
    ]
    assert [one.number for one in chapters()] == list(range(len(PHASES) + 4))


@pytest.mark.parametrize("one", chapters(), ids=named)
def test_a_chapter_has_its_parts(one: Chapter) -> None:
    asked = directives(one)
    kinds = [kind for kind, _ in asked]
    text = f"{one.before}\n\n{one.after}"
    assert "\n::" not in text
    assert kinds.count("question") == 3
    assert "<summary></summary>" not in text
    assert ("diagram", one.slug) in asked
    assert ("phases" in kinds) == (one.slug == "next")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "The idea in ten lines"
    idea = text.split("## The idea in ten lines", 1)[1].split("\n## ", 1)[0]
    assert idea.count("```python") == 1
    if one.slug != "next":
        assert kinds.count("experiment") == 1
        assert kinds[0] == "listing"
        assert asked[0][1].startswith("app.walkthrough.ideas.")  # tests/test_ideas.py runs them
    if one.slug in {phase.slug for phase in PHASES}:
        [file] = (ROOT / "phases").glob(f"p?_{one.slug}.py")
        assert {("costs", one.slug), ("pain", one.slug)} <= set(asked)
        assert {("listing", f"phases.{file.stem}"), ("aside", f"phases.{file.stem}")} & set(asked)
        assert {"What hurt", "What still hurts", "When to use it", "Measure it"} <= set(headings)
        assert "| The article | Here |" in idea or "| BuzzConnect | Here |" in idea


def shown(one: Chapter) -> list[Listing]:
    return [listing(what) for kind, what in directives(one) if kind in ("listing", "aside")]


@pytest.mark.parametrize("one", chapters(), ids=named)
def test_a_listing_fits_its_column_and_a_long_one_is_folded(one: Chapter) -> None:
    for code in shown(one):
        assert [line for line in code.code.splitlines() if len(line) > 88] == []
    long = [what for kind, what in directives(one) if kind == "listing" and listing(what).code.count("\n") > 50]
    assert long == []


def unindented(code: str) -> str:
    return "\n".join(line.strip() for line in code.splitlines())


@pytest.mark.parametrize("one", chapters(), ids=named)
def test_a_chapter_shows_and_tells_each_thing_once(one: Chapter) -> None:
    codes = [unindented(code.code) for code in shown(one)]
    assert not [code for code, other in permutations(codes, 2) if code in other]
    shown_above = "\n".join(codes)
    assert all(unindented(listing(what).code) in shown_above for kind, what in directives(one) if kind == "above")
    text = re.sub(r"^```.*?^```$", "", f"{one.before}\n\n{one.findings}\n\n{one.after}", flags=re.MULTILINE | re.DOTALL)
    told = re.findall(r"^(?:> .+|\| .+ \|)$(?!\n\|---)", text, re.MULTILINE)  # quotes, and rows but not their heads
    assert len(told) == len(set(told)), [line for line in told if told.count(line) > 1]


@pytest.mark.parametrize("one", chapters(), ids=named)
async def test_both_editions_have_what_the_recorded_run_found(demo: Site, one: Chapter) -> None:
    page = await demo.browser().open(f"/walkthrough/{one.slug}")
    [found] = re.findall(r'<div class="outcome prose"[^>]*>(.*?)</div>\n</section>', page, re.DOTALL) or [""]
    rows = re.findall(r"^> .+|^\| .+ \|$", one.findings, re.MULTILINE)
    assert found.count("<tr>") + found.count("<blockquote>") == len(rows)
    assert one.findings in markdown.documents()[f"{one.number}-{one.slug}.md"]


@pytest.mark.parametrize("one", chapters(), ids=named)
def test_a_chapter_explains_what_it_refers_to(one: Chapter) -> None:
    """A rule's number means nothing here, and there are no other documents than those in the repository."""
    text = "\n".join([one.lead, one.before, one.after])
    assert re.findall(r"\b[Rr]ules? \d+|DESIGN|STYLE|§", text) == []
    for path in re.findall(r"\bdocs/[\w./]+", text):
        assert (ROOT / path).exists(), path


def test_a_listing_is_a_module_without_its_imports_or_what_it_defines() -> None:
    whole = listing("phases.p3_queue").code
    assert "import" not in whole
    assert whole.startswith('"""Phase 3')
    assert whole.endswith("\n")
    apart = '    """The hook `after_create` is empty."""\n\n\nCHANGE_STREAM = '
    assert apart in listing("phases.p5_stream").code, "only the imports behind a module's docstring leave a gap"
    assert listing("app.walkthrough.source.Listing.path").code == "path: str\n"
    assert listing("phases.PHASES").path == "phases/__init__.py"
    decorated = listing("app.walkthrough.source.listing")
    assert decorated.code.startswith("@cache\ndef listing(")
    for nothing in ("phases.p1_query.no_such_thing", "phases.no_such_file", "no_such_module.at_all"):
        with pytest.raises(LookupError, match=nothing):
            listing(nothing)


def test_an_unknown_directive_and_a_missing_title_are_named(tmp_path: Path) -> None:
    chapter = tmp_path / "0-broken.md"
    with patch.object(book, "FOLDER", tmp_path):
        for text, words in (("# T\n\nLead.\n\n::nonsense x\n", "nonsense"), ("T\n\nLead.\n\nText\n", "title")):
            chapter.write_text(text)
            with pytest.raises(BookError, match=words):
                book.chapters.__wrapped__()


def test_a_phase_is_drawn_from_its_answers() -> None:
    insert, pending = Step("insert"), Step("insert,\npending")
    take, every, active = (
        Step("a job: queue\nit, take it"),
        Step("id to every\nfollower", "many"),
        Step("id to active\nfollowers", "many"),
    )
    by_id = Step("statuses by\nid, visible?")
    from_list = Step("what is\npending"), Step("my list"), by_id
    asks = Step("whom do\nI follow?"), Step("newest of\neach of them", "many"), Step("may I see\nthem?")
    owed = Step("pending,\nmy list")
    told = {  # store, active_only, in_worker, pulls, streamed
        (False, False, False, False, False): ((insert,), (), asks),
        (True, False, False, False, False): ((pending, every), (), from_list),
        (True, False, True, False, False): (
            (pending,),
            (take, every, Step("not pending\nany more")),
            from_list,
        ),
        (True, True, True, False, False): (
            (pending,),
            (take, active, Step("the others:\nnothing", "gone")),
            (owed, Step("gone? page of\nphase 1", "gone"), by_id),
        ),
        (True, True, True, True, False): (
            (Step("weigh the\nauthor"), Step("insert, pulled\nor pending")),
            (take, active, Step("pulled:\nnothing", "gone")),
            (Step("pending,\npulled"), Step("my list,\nmerged"), by_id),
        ),
        (True, True, True, False, True): (
            (pending,),
            (Step("the stream\ntells"), active, Step("the others:\nnothing", "gone")),
            (owed, Step("gone? page of\nphase 1", "gone"), by_id),
        ),
    }
    who = "The poster waits for", "Somebody else does", "The reader waits for"
    for (store, active_only, in_worker, pulls, streamed), steps in told.items():
        drawn = phase_lanes(
            "It", store=store, active_only=active_only, in_worker=in_worker, pulls=pulls, streamed=streamed
        )
        assert drawn.lanes == dict(zip(who, steps, strict=True))
        assert re.fullmatch(
            r"It\. The poster waits for .+\. (A job|Unless it|The change stream|Nothing) .+\. "
            r"The reader waits for .+\.",
            drawn.about,
        )


# The pages


@pytest.mark.parametrize("one", chapters(), ids=named)
async def test_every_chapter_is_a_page_without_inline_style_or_script(demo: Site, one: Chapter) -> None:
    browser = demo.browser()
    page = await browser.open(f"/walkthrough/{one.slug}")
    assert browser.status == 200
    assert page.count("<h1>") == 1
    assert " style=" not in page
    assert "<style" not in page
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert page.count("<details>") == len([kind for kind, _ in directives(one) if kind in ("question", "aside")])
    headings = re.findall(r'<h2 id="([^"]+)"><a href="#([^"]+)" class="anchor">', page)
    assert len(headings) == len(set(headings)) == len(re.findall(r"^## ", f"{one.before}\n{one.after}", re.MULTILINE))
    assert all(id == anchor for id, anchor in headings)
    for inside in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{inside}"' in page, inside
    assert page.count('role="img"') >= 1
    assert "<img" not in page
    assert "../" not in page
    for other in chapters():
        assert f'href="/walkthrough/{other.slug}"' in page


@pytest.mark.parametrize("one", chapters(), ids=named)
async def test_every_listing_is_what_the_file_says(demo: Site, one: Chapter) -> None:
    page = await demo.browser().open(f"/walkthrough/{one.slug}")
    codes = re.findall(r'<code class="language-python">(.*?)</code></pre>', page, re.DOTALL)
    wanted = shown(one)
    assert [text_of(code) for code in codes] == [one.code for one in wanted]
    for found in wanted:
        assert found.path in page
        lines = iter(line.strip() for line in (ROOT / found.path).read_text("utf-8").splitlines())
        assert all(line.strip() in lines for line in found.code.splitlines()), found.path  # in this order


async def test_the_table_of_contents_leads_everywhere_and_nowhere_else(demo: Site) -> None:
    browser = demo.browser()
    page = await browser.open("/walkthrough")
    links = re.findall(r'class="card" href="([^"]+)"', page)
    assert links == [f"/walkthrough/{one.slug}" for one in chapters()]
    for nowhere in ("/walkthrough/nothing", "/walkthrough/query/runs/nothing", f"/walkthrough/query/runs/{'0' * 24}"):
        await browser.open(nowhere)
        assert browser.status == 404


async def test_what_a_chapter_links_to_is_there_and_leads_back(demo: Site) -> None:
    browser, targets = await demo.browser().sign_up("ann"), dict[str, str]()
    for one in chapters():
        page = await browser.open(f"/walkthrough/{one.slug}")
        article = page.split("<article", 1)[1].split("<nav", 1)[0]
        targets |= dict.fromkeys(re.findall(r'href="(/[^"]*)"', article), one.slug)
    assert {"/operations#disturb", "/phases", "/compare", "/operations/authors", "/conversations"} <= targets.keys()
    for target in targets:
        page = await browser.open(target)
        assert browser.status == 200, target
        _, _, anchor = target.partition("#")
        assert not anchor or f'id="{anchor}"' in page, target
    for page, slugs in {
        "/operations": [phase.slug for phase in (QUEUE, CACHE, STREAM)],
        "/operations/authors": [HYBRID.slug],
        "/conversations": ["conversations"],
        "/phases": [phase.slug for phase in PHASES],
    }.items():
        html_there = await browser.open(page)
        assert all(f'href="/walkthrough/{slug}"' in html_there for slug in slugs), page


def test_each_word_of_a_lesson_on_queues_leads_to_the_files_that_have_it() -> None:
    [live] = [one for one in chapters() if one.slug == "live"]
    table = live.before.split("| What the lesson names |", 1)[1].split("\n\n", 1)[0]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines()[2:]}
    assert rows.keys() == WHERE.keys()
    for word, row in rows.items():
        paths = re.findall(r"\[([\w/.]+)\]\(\.\./\.\./\1\)", row)
        assert len(paths) == len(WHERE[word]), word
        for path, name in zip(paths, WHERE[word], strict=True):
            assert name in (ROOT / path).read_text("utf-8"), (word, path)


async def test_the_whole_file_is_there_with_its_imports_and_no_other_file(demo: Site) -> None:
    browser = demo.browser()
    page = await browser.open("/walkthrough/source/phases/p2_push.py")
    code = text_of(page.split("<pre", 1)[1].split(">", 1)[1].split("</pre>", 1)[0])
    assert code == (ROOT / "phases/p2_push.py").read_text("utf-8")
    assert '<span class="line" id="L1">' in page
    for other in ("app/config.py", "pyproject.toml", "../pyproject.toml", "phases"):
        await browser.open(f"/walkthrough/source/{other}")
        assert browser.status == 404, other


async def test_a_chapter_costs_no_server_anything(demo: Site) -> None:
    with patch.object(Stack, "check", side_effect=AssertionError):
        assert "Phase 2" in await demo.browser().open("/walkthrough/push")


def test_what_is_measured_is_shown_as_it_is() -> None:
    odd = "<b>a</b> | `b` [c](d) &amp; ![e](f)"
    result = Result(sentence=odd, checks=(Check(what=odd, found=odd, as_told=True),))
    shown = str(prose(findings("index", "Now", {"statuses": 1}, result)))
    assert "<b>" not in shown
    assert shown.count(html.escape(odd)) == 3


# The Markdown edition


def test_docs_are_what_the_text_and_the_code_make_of_them() -> None:
    wanted = markdown.documents()
    files = [path for path in markdown.FOLDER.iterdir() if path.is_file() and path.suffix != ".py"]
    found = {path.name: path.read_text("utf-8") for path in files}
    assert found.keys() == wanted.keys(), "python -m app.walkthrough.markdown"
    for name in wanted:
        assert found[name] == wanted[name], f"{name}: python -m app.walkthrough.markdown"


def test_links_between_the_documents_lead_somewhere() -> None:
    documents = markdown.documents()
    for text in documents.values():
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert not target.startswith("/"), target  # a page of a running site
            if not target.startswith("http"):
                assert target in documents or (markdown.FOLDER / target).resolve().exists(), target


def test_what_is_recorded_was_measured_on_real_servers_and_is_as_told() -> None:
    measured = json.loads(MEASURED.read_text("utf-8"))["results"]
    assert measured.keys() == EXPERIMENTS.keys()
    for slug, experiment in EXPERIMENTS.items():
        result = recorded(slug).result
        assert not result.meaningless
        assert all(check.as_told for check in result.checks)
        assert recorded(slug).values == experiment.values({})


# Experiments


@pytest.fixture
def mongodb(addresses: Addresses) -> Iterator[MongoClient[dict[str, object]] | None]:
    """Another client of the same server; None on the stand-in."""
    if addresses.mongodb is None:
        yield None
        return
    with MongoClient[dict[str, object]](addresses.mongodb) as client:
        yield client


async def test_a_database_that_is_of_no_family_of_scratches_is_not_dropped() -> None:
    with pytest.raises(ValueError, match="not of the family"):
        async with scratch(STAND_INS, Config(database="precious"), "precious_lab", Clock()):
            pass


@pytest.mark.parametrize("slug", EXPERIMENTS)
async def test_an_experiment_finds_what_its_chapter_tells_and_leaves_nothing(
    addresses: Addresses, mongodb: MongoClient[dict[str, object]] | None, slug: str
) -> None:
    experiment = EXPERIMENTS[slug]
    config = Config(database="test_laboratory")
    if mongodb:
        mongodb["test_laboratory_lab_left"]["rest"].insert_one({})  # as a killed run leaves it
    values = {knob.name: knob.small for knob in experiment.knobs}
    result = await run_once(addresses, config, experiment, values)
    assert result.meaningless == addresses.one_process
    assert result.sentence[0].isupper()
    assert result.sentence.endswith(".")
    assert all(bar.value > 0 for chart in result.charts for bar in chart.bars)
    assert [check for check in result.checks if not check.as_told] == []
    if mongodb:
        assert not [name for name in mongodb.list_database_names() if "test_laboratory_lab" in name]


@pytest.mark.servers
async def test_the_index_and_the_cliff_are_seen_in_what_mongodb_looks_at(servers: Addresses) -> None:
    config = Config(database="test_laboratory")
    small = {knob.name: knob.small for slug in ("index", "query") for knob in EXPERIMENTS[slug].knobs}
    index = (await run_once(servers, config, EXPERIMENTS["index"], small)).charts[1].bars
    cliff = (await run_once(servers, config, EXPERIMENTS["query"], small)).charts[1].bars
    assert [bar.value for bar in index][2:] == [2_000 - 80, 20]  # back to the newest 20 of 100 old ones; from the index
    keys = {bar.label: bar.value for bar in cliff}
    assert keys["201 followees"] >= 201 * small["history"] > 2 * keys["200 followees"]


@pytest.mark.servers
async def test_an_experiment_leaves_the_queues_of_the_site_alone(world: World) -> None:
    await world.sign_up("ann", "bob")
    await world.follow("ann", "bob")
    await world.post("bob", "waiting")
    waiting = await world.stack.queue.depth()
    small = {knob.name: knob.small for knob in EXPERIMENTS["queue"].knobs}
    await run_once(world.stack.addresses, world.stack.config, EXPERIMENTS["queue"], small)
    assert await world.stack.queue.depth() == waiting
    assert not [key for key in world.stack.queue.connection.keys("*lab*") if b"queue" in key]
    await world.drain()
    await world.sees("ann", "waiting")


def test_words_do_not_claim_more_than_the_figures() -> None:
    assert times(100, 100) == "about as long"
    assert times(1, 2) == "50 % as long"
    assert times(30, 2, "much") == "15 times as much"
    assert times(5, 2) == "2.5 times as long"
    assert times(1, 0) == "not comparably long"
    assert [written(value) for value in (0.417, 4.2, 42.05, 4_200, 3)] == ["0.42", "4.20", "42.0", "4,200", "3"]


def near(ms: float) -> Sample:
    return Sample(ms, ms * 0.98, ms * 1.02)


def wide(ms: float) -> Sample:
    return Sample(ms, ms / 50, ms * 50)


def test_a_sample_is_the_median_and_the_middle_half() -> None:
    assert Sample.of([5, 1, 100, 3, 2]) == Sample(3, 2, 5)
    assert Sample.of([7]) == Sample(7, 7, 7)
    assert str(Sample(2.4, 2.1, 19.96)) == "2.40 (2.10 to 20.0)"


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (near(30), near(2), "15 times as long"),
        (near(1), near(2), "50 % as long"),
        (near(1.3), near(1), "1.3 times as long"),
        (near(1.05), near(1), "no clear difference"),  # apart, and too little
        (wide(30), near(2), "no clear difference"),
        (near(30), wide(2), "no clear difference"),
        (Sample(30, 3, 300), Sample(2, 1, 3), "no clear difference"),  # they touch
    ],
)
def test_a_difference_is_told_where_the_runs_lie_apart(one: Sample, other: Sample, words: str) -> None:
    assert compared(one, other) == words


FARED = {
    "lists in memory": Fared(found=60, gapless=False, after_retries=160, in_order=31, doubled=60),
    "plain inserts": Fared(found=120, gapless=False, after_retries=160, in_order=31, doubled=60),
    "here": Fared(found=120, gapless=True, after_retries=120, in_order=120, doubled=0),
}
SIDES = ("as told", "the other way", "no difference", "too much spread")


def measured(side: str) -> tuple[Sample, Sample]:
    """What the chapter says is dearer, and what it says is cheaper."""
    return {
        SIDES[0]: (near(40), near(2)),
        SIDES[1]: (near(2), near(40)),
        SIDES[2]: (near(3), near(3)),
        SIDES[3]: (wide(40), wide(2)),
    }[side]


def sentences(side: str) -> dict[str, tuple[str, str]]:
    """Pain and cure of every experiment, all of whose pairs came out on that side."""
    dear, cheap = measured(side)
    read = {(phase.slug, n): dear for n in (10, 1_000) for phase in (QUERY, PUSH, QUEUE)}
    read |= {(PUSH.slug, 1_000): cheap, (CACHE.slug, 1_000): cheap, (QUERY.slug, 10): cheap}
    index = {(who, where): sample for who in ("busy", "quiet") for where, sample in ((WITHOUT, dear), (WITH, cheap))}
    cliff = {(200, ONE): cheap, (201, ONE): dear, (1_000, ONE): dear, (1_000, AS_PHASE_1): cheap}
    waits = {(10, "query"): cheap, (5_000, "query"): cheap, (5_000, "push"): dear}
    posts = {"push": dear, "queue": cheap}
    told = {"cache": dear, "stream": cheap}
    stores = {"queue": dear, "cache": cheap, "stream": dear}
    celebrity = {"cache": dear, "stream": dear, "hybrid": cheap}
    pages = {False: cheap, True: dear}
    return {
        "index": ("", e0_index.sentence(20_000, index, {("quiet", WITHOUT): 19_920, ("quiet", WITH): 20})),
        "query": (e1_cliff.pain(cliff, {200: 249, 201: 6_031}), e1_cliff.sentence(cliff, 1_000)),
        "push": (e2_fan_out.pain(read), e2_fan_out.sentence(read, waits, {None: cheap, 800: dear})),
        "queue": (e3_acknowledged.pain(5_000, posts), e3_acknowledged.sentence(5_000, posts, posts)),
        "cache": (
            e4_active.pain(3_000, {None: dear, 100: dear, 10: cheap}),
            e4_active.sentence(3_000, 10, {None: dear, 100: dear, 10: cheap}, read),
        ),
        "stream": (e5_told.pain(told, told, 19_000), e5_told.sentence(3_000, told, told, stores, {})),
        "hybrid": (
            e6_celebrity.pain(10_000, celebrity),
            e6_celebrity.sentence(10_000, 20, celebrity, pages, Sample(dear.median - cheap.median, 0.1, 50)),
        ),
        "live": (e7_live.pain(500, dear, 500), e7_live.sentence(500, dear, cheap, 500, 5)),
        "conversations": (
            e8_conversations.pain(120, FARED["lists in memory"]),
            e8_conversations.sentence(120, FARED, {INSERT: cheap, MESSAGE: dear}),
        ),
    }


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("slug", EXPERIMENTS)
def test_a_sentence_is_right_whatever_was_measured(slug: str, side: str) -> None:
    pain, cure = sentences(side)[slug]
    both = f"{pain} {cure}"
    found = set(re.findall(r"no clear difference|\d+ times as|\d+ % as", both))
    wanted = {
        "as told": {"20 times as", "5 % as"},
        "the other way": {"20 times as", "5 % as"},
        "no difference": {"no clear difference"},
        "too much spread": {"no clear difference"},
    }[side]
    assert found
    assert found <= wanted
    dear, cheap = measured(side)
    assert str(dear) in both  # the figures, with their spread
    assert str(cheap) in both
    for claim in ("faster", "slower", "cheaper", "dearer", "less", "only", "did not", "pays"):
        assert claim not in both.replace("pulling is cheaper here where somebody writes", ""), claim


@pytest.mark.parametrize(("slug", "first", "second"), [
    ("index", "20 times as long", "5 % as long"),
    ("query", "5 % as long", "20 times as long"),
    ("queue", "5 % as long", "20 times as long"),
    ("stream", "5 % as long", "20 times as long"),
    ("hybrid", "5 % as long", "20 times as long"),
    ("conversations", "20 times as long", "5 % as long"),
])  # fmt: skip
def test_a_sentence_turns_with_its_figures(slug: str, first: str, second: str) -> None:
    assert first in sentences("as told")[slug][1]
    assert second in sentences("the other way")[slug][1]
    assert sentences("as told")[slug][1] != sentences("the other way")[slug][1]


def test_busy_people_show_the_missing_index_only_where_they_do() -> None:
    said = {side: sentences(side)["index"][1] for side in SIDES}
    assert "here busy people show it too" in said["as told"]
    assert all("nobody who tries it with busy people notices" in said[side] for side in SIDES[1:])


def test_what_a_pulled_author_costs_is_told_only_where_it_shows() -> None:
    posts = {"cache": near(168), "stream": near(400), "hybrid": near(5)}
    pages = {False: near(3), True: near(4)}
    assert "somebody writes 2.98 statuses or more" in e6_celebrity.sentence(10_000, 20, posts, pages, near(1))
    unclear = e6_celebrity.sentence(10_000, 20, posts, pages, Sample(0.1, -0.5, 0.7))
    assert "cannot tell what a pulled author costs" in unclear
    assert "statuses or more" not in unclear


def test_a_run_stands_beside_the_recorded_one() -> None:
    recorded_bar = recorded("query").result.charts[0].bars[0]
    own = Chart(
        title=recorded("query").result.charts[0].title,
        unit="ms",
        series=recorded("query").result.charts[0].series,
        bars=(Bar(label=recorded_bar.label, value=7, low=6, high=8), Bar(label="nobody else has this", value=1)),
    )
    text = beside_the_recorded("query", Result(sentence="Mine.", charts=(own,)))
    assert recorded("query").where in text.replace("\\", "")
    assert f"| 7 (6 to 8) ms | {figure(recorded_bar)} ms |" in text
    assert "nobody else has this" not in text


def test_a_chart_shows_the_middle_half() -> None:
    drawing = chart_drawing(Chart(title="T", unit="ms", bars=(Sample(2, 1, 4).bar("a"), Bar(label="b", value=1))))
    assert drawing.about == "T. a: 2 (1 to 4) ms; b: 1 ms"
    assert drawing.svg.count('class="spread"') == 1


def test_a_chart_can_be_heard_and_escapes() -> None:
    drawing = chart_drawing(Chart(title="<b>", unit="ms", bars=(Bar(label='a"b', value=1),)))
    assert drawing.about == '<b>. a"b: 1 ms'
    assert 'aria-label="&lt;b&gt;. a&#34;b: 1 ms"' in drawing.svg
    assert "<b>" not in drawing.svg


# Runs


async def until_over(browser: Browser) -> str:
    async with asyncio.timeout(DEADLINE_S):
        while browser.answer.headers["X-Run-State"] == "running":
            assert browser.answer.headers["Refresh"]
            await browser.open(str(browser.answer.url))
            await asyncio.sleep(0)
    return browser.html


async def test_an_experiment_by_forms_alone_while_the_site_answers(demo: Site) -> None:
    browser, other = demo.browser(), demo.browser()
    await browser.open("/walkthrough/beginning")
    await browser.submit("/walkthrough/beginning/runs")
    assert browser.status == 200
    assert "/walkthrough/beginning/runs/" in str(browser.answer.url)
    await other.open("/walkthrough/push")
    await other.submit("/walkthrough/push/runs")
    assert other.status == 429
    assert "Another experiment is running" in other.html
    page = await until_over(browser)
    assert browser.answer.headers["X-Run-State"] == "done"
    assert "the times mean nothing" in page
    assert "With 2,000 statuses" in page
    assert "Your run beside the recorded one" in page
    part = await browser.open(f"{browser.answer.url}?part=1")
    assert "<html" not in part
    assert "With 2,000 statuses" in part
    await browser.open(str(browser.answer.url).replace("beginning", "query").split("?")[0])
    assert browser.status == 404  # a run belongs to its chapter


async def test_a_chapter_says_how_long_its_experiment_may_take(demo: Site) -> None:
    with patch("app.web.walkthrough._real", return_value=True):
        page = await demo.browser().open("/walkthrough/live")
    assert f"It takes {LIMIT_S:g} s at most." in page


async def test_who_presses_twice_is_shown_the_run_that_has_begun(demo: Site) -> None:
    browser = demo.browser()
    await browser.open("/walkthrough/beginning")
    form = browser.form("/walkthrough/beginning/runs")
    with patch.object(Laboratory, "_run", lambda *_: asyncio.sleep(0)):
        first, second, other = [
            await browser.client.post(form.action, data=form.fields | {"statuses": statuses})
            for statuses in ("4000", "4000", "6000")
        ]
    assert (first.status_code, second.status_code, other.status_code) == (303, 303, 429)
    assert second.headers["location"] == first.headers["location"]


async def test_a_knob_keeps_its_bounds(demo: Site) -> None:
    browser = demo.browser()
    for wrong in ("1", "1000000", "-5", "many", "2_000"):
        await browser.open("/walkthrough/beginning")
        await browser.submit("/walkthrough/beginning/runs", statuses=wrong)
        assert browser.status == 422
        assert "from 2,000 to 20,000" in browser.html
    await browser.open("/walkthrough/beginning")
    form = browser.form("/walkthrough/beginning/runs")
    answer = await browser.client.post("/walkthrough/next/runs", data=form.fields)
    assert answer.status_code == 404  # a chapter without one
    answer = await browser.client.post("/walkthrough/beginning/runs", data={})
    assert answer.status_code == 403  # not from one of our pages


async def test_outside_demo_mode_experiments_are_for_administrators() -> None:
    async with opened() as site:
        ann = await site.browser().sign_up("ann")
        page = await ann.open("/walkthrough/beginning")
        assert "Administrators can run it here" in page
        assert "data-experiment" not in page
        proof = ann.form("/sign-out").fields
        assert (await ann.client.post("/walkthrough/beginning/runs", data=proof)).status_code == 403
        user = await User.find_one({"handle": "ann"})
        assert user
        await user.set({"admin": True})
        await ann.open("/walkthrough/beginning")
        await ann.submit("/walkthrough/beginning/runs")
        await until_over(ann)
        assert ann.answer.headers["X-Run-State"] == "done"


async def test_too_many_runs_in_a_minute_are_refused(demo: Site) -> None:
    demo.app.state.laboratory = Laboratory(demo.stack, per_minute=1)
    browser = demo.browser()
    for state in (200, 429):
        await browser.open("/walkthrough/beginning")
        await browser.submit("/walkthrough/beginning/runs")
        assert browser.status == state
        if state == 200:
            await until_over(browser)
    assert browser.answer.headers["Retry-After"]


async def test_one_person_leaves_half_of_the_runs_to_others(demo: Site) -> None:
    laboratory = Laboratory(demo.stack, per_minute=4)
    with patch.object(Laboratory, "_run", lambda *_: asyncio.sleep(0)):
        for whose, may in (("ann", True), ("ann", True), ("ann", False), ("bob", True)):
            demo.clock.advance(LOCK_S + 1)
            with nullcontext() if may else pytest.raises(TooMany):
                await laboratory.begin("index", {}, whose)


async def test_what_breaks_says_so_and_frees_the_way(demo: Site) -> None:
    browser = demo.browser()

    async def broken(*_: object) -> Result:
        raise RuntimeError("on purpose")

    await browser.open("/walkthrough/beginning")
    with patch.object(type(EXPERIMENTS["index"]), "run", broken):
        await browser.submit("/walkthrough/beginning/runs")
        page = await until_over(browser)
    assert "The experiment failed." in page
    await browser.submit("/walkthrough/beginning/runs")
    await until_over(browser)
    assert browser.answer.headers["X-Run-State"] == "done"


async def test_a_run_whose_process_died_is_over_after_a_while(demo: Site) -> None:
    laboratory = Laboratory(demo.stack)
    with patch.object(Laboratory, "_run", lambda *_: asyncio.sleep(0)):
        run = await laboratory.begin("index", {}, "ann")
    assert (await laboratory.run(run)).state == "running"
    demo.clock.advance(LOCK_S + 1)
    assert (await laboratory.run(run)).state == "failed"
    with patch.object(Laboratory, "_run", lambda *_: asyncio.sleep(0)):
        await laboratory.begin("index", {}, "ann")


async def test_a_finding_that_contradicts_the_chapter_is_marked(demo: Site) -> None:
    browser = demo.browser()

    async def contrary(*_: object) -> Result:
        return Result(sentence="Found otherwise.", checks=(Check(what="Lost", found="7", as_told=False),))

    await browser.open("/walkthrough/beginning")
    with patch.object(type(EXPERIMENTS["index"]), "run", contrary):
        await browser.submit("/walkthrough/beginning/runs")
        assert "Not as this chapter says." in await until_over(browser)


# The exercise


async def test_the_starter_of_another_phase_is_right_as_it_stands() -> None:
    spec = importlib.util.spec_from_file_location(STARTER.stem, STARTER)
    assert spec
    assert spec.loader
    starter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(starter)
    clock = ManualClock(NOON)
    async with connected(STAND_INS, Config(demo=True), clock) as stack:
        slug = starter.LISTENERS.slug
        timelines = await Timelines.open(stack, (*PHASES, starter.LISTENERS))
        await timelines.change(delivering=[DEFAULT.slug, slug])
        world = World(stack, clock, timelines)
        world.pass_grace()
        await world.sign_up("ann", "bob")
        await world.follow("ann", "bob")
        await world.post("bob", "first")
        assert await world.walk("ann", slug) == ["first"]
        await world.post("bob", "second")
        await world.drain()
        assert await world.walk("ann", slug) == ["second", "first"]
        assert await world.source("ann", slug) == "list"
        kept = timelines.kept_by(slug)
        assert kept
        assert isinstance(kept.recipients, starter.Listeners)
        ann, bob = world.ids["ann"], world.ids["bob"]
        assert await kept.recipients.muting(bob, [ann]) == set()
        await world.relations.mute(ann, bob)
        assert await kept.recipients.muting(bob, [ann, bob]) == {ann}


# The command


def test_the_command_opens_the_running_site(tmp_path: Path) -> None:
    directory, opened_addresses = DataDirectory(tmp_path), list[str]()
    with (
        patch("webbrowser.open", opened_addresses.append),
        directory.owned("feedlab serve", lasting=True),
    ):
        directory.change(web="http://127.0.0.1:8123", ready=True)
        result = CliRunner().invoke(main, ["walkthrough", "--data", str(tmp_path)])
        quiet = CliRunner().invoke(main, ["walkthrough", "--data", str(tmp_path), "--print"])
    assert result.exit_code == quiet.exit_code == 0
    assert result.stdout == quiet.stdout == "http://127.0.0.1:8123/walkthrough\n"
    assert opened_addresses == ["http://127.0.0.1:8123/walkthrough"]


def test_the_command_says_how_to_start_the_site(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["walkthrough", "--data", str(tmp_path)])
    assert result.exit_code == 2
    assert "feedlab serve --demo" in result.stderr
