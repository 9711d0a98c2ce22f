"""Charts and diagrams as SVG: sized for a telephone, scaled up elsewhere; colours come from classes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from app.walkthrough.result import Chart, written

WIDTH = 344  # of every drawing: a telephone's 375 without its margins
SVG = '<svg class="drawing {kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}</svg>'


def _svg(kind: str, height: float, label: str, body: Iterable[str]) -> Markup:
    return Markup(SVG).format(
        kind=kind, width=WIDTH, height=round(height), label=label, body=Markup("").join(Markup(part) for part in body)
    )


def _text(x: float, y: float, words: str, look: str = "", anchor: str = "start") -> str:
    return f'<text class="{look}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _rect(x: float, y: float, width: float, height: float, look: str, radius: float = 6) -> str:
    return f'<rect class="{look}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}"/>'


# Charts

LABEL_PX, BAR_PX, BETWEEN_PX = 16, 16, 10
LONGEST_BAR_PX = 262  # the rest is for its value


def chart_svg(chart: Chart) -> Markup:
    """Horizontal bars, grouped by label; the figures stand beside them."""
    most = max((bar.value for bar in chart.bars), default=0) or 1
    y, parts = 0.0, []
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
        width = max(2.0, bar.value / most * LONGEST_BAR_PX)
        parts += [
            _rect(0, y + 1, width, BAR_PX - 4, f"mark s{bar.series}", 2),
            _text(width + 6, y + 11, f"{written(bar.value)} {chart.unit}".strip(), "value"),
        ]
        y += BAR_PX
    return _svg("chart", y + 2, _spoken(chart), parts)


def _spoken(chart: Chart) -> str:
    return f"{chart.title}. " + "; ".join(
        f"{bar.label}{_of_series(chart, bar.series)}: {written(bar.value)} {chart.unit}".strip() for bar in chart.bars
    )


def _of_series(chart: Chart, series: int) -> str:
    return f", {chart.series[series]}" if chart.series else ""


# Diagrams

Look = Literal["step", "many", "heavy", "gone"]


@dataclass(frozen=True)
class Step:
    """At most two lines in a box. `many`: one for each follower. `gone`: not done, or only sometimes."""

    words: tuple[str, ...]
    look: Look = "step"


@dataclass(frozen=True)
class Lane:
    who: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Lanes:
    """Who does what, from left to right. The same three lanes in every phase: the work moves between them."""

    about: str
    lanes: tuple[Lane, ...]


LANE_HEAD, BOX_PX, LANE_GAP, STEP_GAP = 20, 44, 18, 18
STACK = 4  # how far a box of many shows behind the first


def lanes_svg(diagram: Lanes) -> Markup:
    y, parts = 0.0, []
    for lane in diagram.lanes:
        parts.append(_text(0, y + 12, lane.who, "who"))
        y += LANE_HEAD
        if lane.steps:
            parts += _boxes(lane.steps, y)
            y += BOX_PX + LANE_GAP + (STACK if any(step.look == "many" for step in lane.steps) else 0)
        else:
            parts.append(_text(0, y + 14, "nothing", "soft"))
            y += 20 + LANE_GAP
    return _svg("lanes", y - LANE_GAP + 2, diagram.about, parts)


def _boxes(steps: Sequence[Step], y: float) -> list[str]:
    width = min(160.0, (WIDTH - 2 * STACK - 1 - STEP_GAP * (len(steps) - 1)) / len(steps))
    parts = []
    for n, step in enumerate(steps):
        x = 1 + n * (width + STEP_GAP)
        if step.look == "many":
            parts += [_rect(x + back, y + back, width, BOX_PX, "many") for back in (2 * STACK, STACK)]
        parts.append(_rect(x, y, width, BOX_PX, step.look))
        first = y + BOX_PX / 2 + 4 - 7.5 * (len(step.words) - 1)
        parts += [
            _text(x + width / 2, first + 15 * line, words, "in", "middle") for line, words in enumerate(step.words)
        ]
        if n:
            parts.append(f'<path class="arrow" d="M{x - STEP_GAP + 4:.1f} {y + BOX_PX / 2:.1f}h9m-4 -4l4 4l-4 4"/>')
    return parts


def fans_svg() -> Markup:
    """The two directions of the problem."""
    parts = []
    for left, title, sub in (
        (0, "Posting", "1 status, n timelines"),
        (WIDTH / 2 + 6, "Reading", "n authors, 1 timeline"),
    ):
        one, many = (left + 26, left + 140) if not left else (left + 140, left + 26)
        parts += [_text(left, 12, title, "who"), _text(left, 28, sub, "soft")]
        for n in range(5):
            y = 48 + 22 * n
            parts.append(
                f'<path class="arrow" d="M{left + 26:.1f} {y if left else 92}L{left + 140:.1f} {92 if left else y}"/>'
            )
            parts.append(f'<circle class="node" cx="{many:.1f}" cy="{y}" r="7"/>')
        parts.append(f'<circle class="node one" cx="{one:.1f}" cy="92" r="11"/>')
    about = (
        "Two pictures: one author’s status goes to many followers’ timelines; one reader’s timeline comes from many "
        "authors."
    )
    return _svg("fans", 148, about, parts)


POSTER, BEHIND, READER = "The poster waits for", "Somebody else does", "The reader waits for"

DIAGRAMS: dict[str, Lanes] = {
    "query": Lanes(
        "Phase 1. The poster waits for one insert. Nothing happens behind. The reader waits for whom they follow, for "
        "the newest statuses of each of them, and for the check of who may see what.",
        (
            Lane(POSTER, (Step(("insert",)),)),
            Lane(BEHIND, ()),
            Lane(
                READER,
                (
                    Step(("whom do", "I follow?")),
                    Step(("newest of", "each of them"), "many"),
                    Step(("may I see", "them?")),
                ),
            ),
        ),
    ),
    "push": Lanes(
        "Phase 2. The poster waits for the insert and for the id on every follower’s timeline. Nothing happens behind. "
        "The reader waits for their own list and for the statuses by id.",
        (
            Lane(POSTER, (Step(("insert",)), Step(("id to every", "follower"), "many"))),
            Lane(BEHIND, ()),
            Lane(READER, (Step(("my list",)), Step(("statuses by", "id, visible?")))),
        ),
    ),
    "queue": Lanes(
        "Phase 3. The poster waits for the insert and for a job to be queued. A worker puts the id on every follower’s "
        "timeline. The reader waits for what is pending and their own list, and for the statuses by id.",
        (
            Lane(POSTER, (Step(("insert,", "pending")), Step(("queue a job",)))),
            Lane(
                BEHIND,
                (Step(("take the job",)), Step(("id to every", "follower"), "many"), Step(("not pending", "any more"))),
            ),
            Lane(READER, (Step(("what is", "pending")), Step(("my list",)), Step(("statuses by", "id, visible?")))),
        ),
    ),
    "cache": Lanes(
        "Phase 4. The poster waits as in phase 3. A worker puts the id in front of the active followers’ lists in "
        "memory, and skips who is away. The reader waits for what is pending and their list in memory, or, when it is "
        "gone, for one query that fills it in again, and for the statuses by id.",
        (
            Lane(POSTER, (Step(("insert,", "pending")), Step(("queue a job",)))),
            Lane(
                BEHIND,
                (
                    Step(("take the job",)),
                    Step(("id to active", "followers"), "many"),
                    Step(("the others:", "nothing"), "gone"),
                ),
            ),
            Lane(
                READER,
                (
                    Step(("pending,", "my list")),
                    Step(("gone? query,", "fill in"), "gone"),
                    Step(("statuses by", "id, visible?")),
                ),
            ),
        ),
    ),
    "next": Lanes(
        "A hybrid. The poster waits as in phase 3. A worker delivers the statuses of ordinary authors only. The reader "
        "waits for their list, for a query of the few celebrities they follow, and for the statuses by id.",
        (
            Lane(POSTER, (Step(("insert,", "pending")), Step(("queue a job",)))),
            Lane(BEHIND, (Step(("celebrity?", "stop here"), "gone"), Step(("id to active", "followers"), "many"))),
            Lane(
                READER,
                (Step(("pending,", "my list")), Step(("celebrities:", "query")), Step(("statuses by", "id, visible?"))),
            ),
        ),
    ),
}


def diagram_svg(name: str) -> Markup:
    """Raises KeyError."""
    return fans_svg() if name == "beginning" else lanes_svg(DIAGRAMS[name])
