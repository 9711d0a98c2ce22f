"""Charts and diagrams as SVG: sized for a telephone, scaled up elsewhere; colours come from classes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markupsafe import Markup, escape

import templates
from app.walkthrough.result import Chart, figure
from phases import PHASES

WIDTH = 344  # of every drawing: a telephone's 375 without its margins
FANS = Path(templates.__file__).parent / "walkthrough" / "beginning.svg"
SVG = '<svg class="drawing {kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}</svg>'


@dataclass(frozen=True)
class Drawing:
    """A picture. `about`: its description in words."""

    about: str
    svg: Markup


def _drawing(kind: str, height: float, about: str, parts: Iterable[str]) -> Drawing:
    body = Markup("").join(Markup(part) for part in parts)
    return Drawing(about, Markup(SVG).format(kind=kind, width=WIDTH, height=round(height), label=about, body=body))


def _text(x: float, y: float, words: str, look: str = "", anchor: str = "start") -> str:
    return f'<text class="{look}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _rect(x: float, y: float, width: float, height: float, look: str, radius: float = 6) -> str:
    return f'<rect class="{look}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}"/>'


# Charts

TITLE_PX, LABEL_PX, BAR_PX, BETWEEN_PX = 24.0, 16, 16, 10
LONGEST_BAR_PX = 262  # the rest is for its value
LONGEST_SPREAD_PX = 196  # or for its value and spread


def chart_drawing(chart: Chart) -> Drawing:
    """Draw horizontal bars, grouped by label, with the figures beside them."""
    most = max((bar.high or bar.value for bar in chart.bars), default=0) or 1
    longest = LONGEST_SPREAD_PX if any(bar.high is not None for bar in chart.bars) else LONGEST_BAR_PX
    y, parts = TITLE_PX, [_text(0, 12, f"{chart.title}, {chart.unit}" if chart.unit else chart.title, "who")]
    if chart.series:
        x = 0.0
        for n, name in enumerate(chart.series):
            parts += [_rect(x, y + 2, 10, 10, f"mark s{n}", 2), _text(x + 15, y + 11, name, "soft")]
            x += 15 + 6.4 * len(name) + 14
        y += LABEL_PX + 8
    before = None
    for bar in chart.bars:
        if bar.label != before:
            y += BETWEEN_PX if before else 0
            parts.append(_text(0, y + 11, bar.label))
            y, before = y + LABEL_PX, bar.label
        width = max(2.0, bar.value / most * longest)
        parts.append(_rect(0, y + 1, width, BAR_PX - 4, f"mark s{bar.series}", 2))
        if bar.low is not None and bar.high is not None:
            low, width = bar.low / most * longest, max(width, bar.high / most * longest)
            parts.append(f'<path class="spread" d="M{low:.1f} {y + 7:.1f}H{width:.1f}"/>')
        parts.append(_text(width + 6, y + 11, f"{figure(bar)} {chart.unit}".strip(), "value"))
        y += BAR_PX
    names = [", ".join((bar.label, *chart.series[bar.series : bar.series + 1])) for bar in chart.bars]
    told = (f"{name}: {figure(bar)} {chart.unit}".strip() for name, bar in zip(names, chart.bars, strict=True))
    return _drawing("chart" if chart.series else "chart only", y + 2, f"{chart.title}. {'; '.join(told)}", parts)


# Diagrams

Look = Literal["step", "many", "gone"]


@dataclass(frozen=True)
class Step:
    """A box of a diagram, with at most two lines.

    Its `look`: `many`, one for each follower; `gone`, not done, or only sometimes.
    """

    words: str
    look: Look = "step"


@dataclass(frozen=True)
class Lanes:
    """Three lanes from left to right, the same in every phase: the work moves between them."""

    about: str
    lanes: dict[str, tuple[Step, ...]]  # by whose they are


LANE_HEAD, BOX_PX, LANE_GAP, STEP_GAP = 20, 44, 18, 18
STACK = 4  # how far a box of many shows behind the first


def lanes_drawing(diagram: Lanes) -> Drawing:
    y, parts = 0.0, []
    for who, steps in diagram.lanes.items():
        parts.append(_text(0, y + 12, who, "who"))
        y += LANE_HEAD
        if steps:
            parts += _boxes(steps, y)
            y += BOX_PX + LANE_GAP + (STACK if any(step.look == "many" for step in steps) else 0)
        else:
            parts.append(_text(0, y + 14, "nothing", "soft"))
            y += 20 + LANE_GAP
    return _drawing("lanes", y - LANE_GAP + 2, diagram.about, parts)


def _boxes(steps: Sequence[Step], y: float) -> list[str]:
    width = min(160.0, (WIDTH - 2 * STACK - 1 - STEP_GAP * (len(steps) - 1)) / len(steps))
    parts = []
    for n, step in enumerate(steps):
        x = 1 + n * (width + STEP_GAP)
        if step.look == "many":
            parts += [_rect(x + back, y + back, width, BOX_PX, "many") for back in (2 * STACK, STACK)]
        parts.append(_rect(x, y, width, BOX_PX, step.look))
        lines = step.words.splitlines()
        first = y + BOX_PX / 2 + 4 - 7.5 * (len(lines) - 1)
        parts += [_text(x + width / 2, first + 15 * n, line, "in", "middle") for n, line in enumerate(lines)]
        if n:
            parts.append(f'<path class="arrow" d="M{x - STEP_GAP + 4:.1f} {y + BOX_PX / 2:.1f}h9m-4 -4l4 4l-4 4"/>')
    return parts


def fans_drawing() -> Drawing:
    """Return the picture of the problem's two directions, which is a fixed file."""
    svg = FANS.read_text("utf-8").replace("\n", "")
    return Drawing(svg.split('aria-label="', 1)[1].split('"', 1)[0], Markup(svg))


LANES = "The poster waits for", "Somebody else does", "The reader waits for"
BY_ID = Step("statuses by\nid, visible?")
Told = tuple[str, tuple[Step, ...]]  # a lane's sentence, and its steps
STREAMED_POSTER: Told = "The poster waits for one insert.", (Step("insert,\npending"),)
STREAMED_BEHIND: Told = (
    "The change stream tells a worker, which adds the id to the active followers’ sets, and skips those who are away.",
    (Step("the stream\ntells"), Step("id to active\nfollowers", "many"), Step("the others:\nnothing", "gone")),
)


def phase_lanes(
    name: str, *, store: bool, active_only: bool, in_worker: bool, pulls: bool, streamed: bool = False
) -> Lanes:
    """Return the diagram of a phase by its four answers.

    They are: whether timelines are kept, for active readers only, by a worker (which a job or the change stream tells);
    and whether a read asks for what is not delivered. Where nothing is kept, it asks for everything.
    """
    told = (
        STREAMED_POSTER if streamed else _poster(store, in_worker, pulls),
        STREAMED_BEHIND if streamed else _behind(active_only, in_worker, pulls),
        _reader(store, active_only, pulls),
    )
    about = " ".join((f"{name}.", *(sentence for sentence, _ in told)))
    return Lanes(about, {who: steps for who, (_, steps) in zip(LANES, told, strict=True)})


def _poster(store: bool, in_worker: bool, pulls: bool) -> Told:
    if in_worker and pulls:
        steps = Step("weigh the\nauthor"), Step("insert, pulled\nor pending")
        return "The poster waits for the insert, which says whether the status is pulled.", steps
    if in_worker:
        return "The poster waits for the insert.", (Step("insert,\npending"),)
    if store:
        steps = Step("insert,\npending"), Step("id to every\nfollower", "many")
        return "The poster waits for the insert and for the id on every follower’s timeline.", steps
    return "The poster waits for one insert.", (Step("insert"),)


def _behind(active_only: bool, in_worker: bool, pulls: bool) -> Told:
    job, to_active = Step("a job: queue\nit, take it"), Step("id to active\nfollowers", "many")
    if not in_worker:
        return "Nothing happens behind.", ()
    if pulls:
        words = "Unless it is pulled, a job is queued: a worker puts the id on the active followers’ lists in memory."
        return words, (job, to_active, Step("pulled:\nnothing", "gone"))
    if active_only:
        words = (
            "A job is queued behind it: a worker puts the id in front of the active followers’ lists in memory, and "
            "skips those who are away."
        )
        return words, (job, to_active, Step("the others:\nnothing", "gone"))
    steps = job, Step("id to every\nfollower", "many"), Step("not pending\nany more")
    return "A job is queued behind it: a worker puts the id on every follower’s timeline.", steps


def _reader(store: bool, active_only: bool, pulls: bool) -> Told:
    if not store:
        return (
            "The reader waits for whom they follow, for the newest statuses of each of them, and for the check of who "
            "may see what.",
            (Step("whom do\nI follow?"), Step("newest of\neach of them", "many"), Step("may I see\nthem?")),
        )
    if pulls:
        return (
            "The reader waits for what is pending or pulled and their list in memory, and for the statuses by id.",
            (Step("pending,\npulled"), Step("my list,\nmerged"), BY_ID),
        )
    if active_only:
        return (
            "The reader waits for what is pending and their list in memory, or, when it is gone, for a page of "
            "phase 1, beside which it is filled again; and for the statuses by id.",
            (Step("pending,\nmy list"), Step("gone? page of\nphase 1", "gone"), BY_ID),
        )
    words = "The reader waits for what is pending and their own list, and for the statuses by id."
    return words, (Step("what is\npending"), Step("my list"), BY_ID)


def live_lanes() -> Lanes:
    about = (
        "Live. The poster waits for one insert, and a hint of it is published once. Every web process that hears it "
        "reads the status once and tells its own connections of followers. Every half a minute it looks by itself."
    )
    lanes = {
        LANES[0]: (Step("insert"), Step("publish\na hint")),
        "Every web process": (Step("the status,\nonce"), Step("its own who\nfollow: told", "many")),
        "Every half a minute": (Step("what was\nmissed?"),),
    }
    return Lanes(about, lanes)


def conversation_lanes() -> Lanes:
    about = (
        "A conversation. The sender waits for a look, which finds an earlier try, and for one transaction with the "
        "next number and the message. A hint tells open pages. Whoever was away asks for what lies above their last "
        "number, and says what has been delivered and read."
    )
    lanes = {
        "The sender waits for": (Step("look: sent\nbefore?"), Step("number and\nmessage, in one")),
        "Every web process": (Step("hint: tell\nopen pages", "gone"),),
        "The other, whenever they come": (Step("all above\nmy number"), Step("delivered,\nread")),
    }
    return Lanes(about, lanes)


def diagram(name: str) -> Drawing:
    """Draw the picture of a phase, or of a chapter before or after the phases. Raises KeyError."""
    if name == "beginning":
        return fans_drawing()
    if name == "live":
        return lanes_drawing(live_lanes())
    if name == "conversations":
        return lanes_drawing(conversation_lanes())
    if name == "next":
        yours = phase_lanes("Yours, as it begins", store=True, active_only=True, in_worker=True, pulls=False)
        return lanes_drawing(yours)
    n, phase = {phase.slug: (n, phase) for n, phase in enumerate(PHASES, 1)}[name]
    lanes = phase_lanes(
        f"Phase {n}",
        store=phase.store is not None,
        active_only=bool(phase.recipients and phase.recipients.active_only),
        in_worker=bool(phase.carrier and phase.carrier.in_worker),
        pulls=phase.pulls is not None,
        streamed=bool(phase.carrier and phase.carrier.inserted),
    )
    return lanes_drawing(lanes)
