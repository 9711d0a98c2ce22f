"""The walkthrough for readers on a code host: `python -m app.walkthrough.markdown` writes docs/walkthrough/."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import dedent

from app.walkthrough.book import Block, Chapter, chapters, recorded
from app.walkthrough.costs import ACTIONS, claims
from app.walkthrough.drawing import chart_svg, diagram_svg
from app.walkthrough.experiments import EXPERIMENTS
from app.walkthrough.result import Chart, Result, written
from app.walkthrough.source import changes, listing

FOLDER = Path(__file__).parents[2] / "docs" / "walkthrough"
NOTE = "<!-- Written by `python -m app.walkthrough.markdown` from templates/walkthrough/; change it there. -->"

# Colours of a drawing that stands alone in a file; on the pages style.css and walkthrough.css give them.
STYLE = dedent("""\
    <style>
    svg{font:12px system-ui,sans-serif;color-scheme:light dark;--ink:#14201d;--soft:#51605c;--edge:#84918d;
    --card:#fff;--accent:#0a6b5d;--wash:#e3f1ed}
    @media(prefers-color-scheme:dark){svg{--ink:#e6edeb;--soft:#9cada8;--edge:#6d7c77;--card:#161d1b;
    --accent:#58d1b8;--wash:#15312b}}
    text{fill:var(--ink)}.soft{fill:var(--soft)}.who{font-weight:600}.in{font-size:12px}
    rect.step,rect.many{fill:var(--card);stroke:var(--edge)}rect.many{fill:var(--wash);stroke:var(--accent)}
    rect.gone{fill:none;stroke:var(--edge);stroke-dasharray:4 3}.s0{fill:var(--edge)}.s1,.only .s0{fill:var(--accent)}
    .arrow{fill:none;stroke:var(--edge);stroke-width:1.5}.node{fill:var(--card);stroke:var(--edge)}
    .one{fill:var(--accent);stroke:none}
    </style>""")


def documents() -> dict[str, str]:
    """File name in docs/walkthrough/ -> what has to be in it."""
    files = {"README.md": _contents()}
    for chapter in chapters():
        files[_name(chapter)] = "\n\n".join(_chapter(chapter)) + "\n"
        for block in chapter.blocks:
            if block.kind == "diagram":
                files[f"{block.what}.svg"] = _standing_alone(diagram_svg(block.what))
            if block.kind == "experiment":
                for n, chart in enumerate(recorded(block.what).result.charts, 1):
                    files[f"measured-{block.what}-{n}.svg"] = _standing_alone(chart_svg(chart))
    return files


def _name(chapter: Chapter) -> str:
    return f"{chapter.number}-{chapter.slug}.md"


def _contents() -> str:
    lines = [f"{c.number}. [{c.title}]({_name(c)})  \n   {c.lead}" for c in chapters()]
    about = (
        "The same text as the pages at `/walkthrough` of a running Feedlab, where every experiment has a button: "
        "`feedlab serve --demo`, then `feedlab walkthrough`. Listings, costs and figures are read from the code and "
        "from recorded runs."
    )
    return "\n\n".join([NOTE, "# The walkthrough", about, "\n".join(lines)]) + "\n"


def _chapter(chapter: Chapter) -> Iterator[str]:
    yield NOTE
    yield f"# {chapter.number}. {chapter.title}"
    yield f"*{chapter.lead}*"
    for block in chapter.blocks:
        yield from BLOCKS[block.kind](block)
    yield "---"
    yield _turn(chapter)


def _turn(chapter: Chapter) -> str:
    others = {other.number: other for other in chapters()}
    links = ["[Contents](README.md)"]
    for step, word in ((-1, "Before"), (1, "Next")):
        if other := others.get(chapter.number + step):
            links.append(f"{word}: [{other.title}]({_name(other)})")
    return " · ".join(links)


def _text(block: Block) -> Iterator[str]:
    yield block.text


def _diagram(block: Block) -> Iterator[str]:
    yield f"![{block.what}]({block.what}.svg)"


def _listing(block: Block) -> Iterator[str]:
    found = listing(block.what)
    what = f"`{found.name}` in " if found.name else ""
    yield f"{what}[{found.path}](../../{found.path}#L{found.first_line}):"
    yield f"```python\n{found.code}```"


def _aside(block: Block) -> Iterator[str]:
    found = listing(block.what)
    yield f"<details><summary>{found.name or found.path}, in {found.path}</summary>"
    yield f"```python\n{found.code}```"
    yield "</details>"


def _changes(block: Block) -> Iterator[str]:
    found = changes(block.what)
    yield f"What `{found.phase.__name__}` does differently from `{found.before.__name__}`, method by method:"
    if found.new:
        yield f"New: {_names(found.new)}."
    for name, difference in found.replaced:
        yield f"<details><summary>{name}, the difference</summary>"
        yield f"```diff\n{difference}```"
        yield "</details>"
    yield f"The same: {_names(found.same)}."


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _costs(block: Block) -> Iterator[str]:
    rows = [
        f"| {ACTIONS[claim.action]} | {claim.words} | {claim.example_of}: {claim.example} |"
        for claim in claims(block.what)
    ]
    yield "\n".join(["| What | Commands | For example |", "|---|---|---|", *rows])


def _measured(block: Block) -> Iterator[str]:
    found = recorded(block.what)
    yield f"> **Measured.** {found.result.sentence}"


def _experiment(block: Block) -> Iterator[str]:
    experiment, found = EXPERIMENTS[block.what], recorded(block.what)
    yield f"**{experiment.title}.** {experiment.about}"
    yield "Recorded on {}, {}, with {}:".format(
        found.when, found.where, ", ".join(f"{k.label.lower()} {found.values[k.name]:,}" for k in experiment.knobs)
    )
    yield from _result(block.what, found.result)


def _result(slug: str, result: Result) -> Iterator[str]:
    yield f"> {result.sentence}"
    for n, chart in enumerate(result.charts, 1):
        yield f"![{chart.title}](measured-{slug}-{n}.svg)"
        yield _table(chart)
    if result.checks:
        rows = [f"| {check.what} | {check.found} |" for check in result.checks]
        yield "\n".join(["| Whatever the machine | |", "|---|---|", *rows])


def _table(chart: Chart) -> str:
    head = f"{chart.title}{f', {chart.unit}' if chart.unit else ''}"
    columns = chart.series or ("",)
    rows: dict[str, list[str]] = {}
    for bar in chart.bars:
        rows.setdefault(bar.label, []).append(written(bar.value))
    lines = [f"| {head} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    return "\n".join(lines + [f"| {label} | {' | '.join(values)} |" for label, values in rows.items()])


def _question(block: Block) -> Iterator[str]:
    yield f"<details><summary>{_code_words(block.what)}</summary>"
    yield block.text
    yield "</details>"


def _code_words(words: str) -> str:
    """Markdown is not read inside a summary."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", words)


BLOCKS: dict[str, Callable[[Block], Iterator[str]]] = {
    "text": _text,
    "diagram": _diagram,
    "listing": _listing,
    "aside": _aside,
    "changes": _changes,
    "costs": _costs,
    "measured": _measured,
    "experiment": _experiment,
    "question": _question,
}


def _standing_alone(svg: str) -> str:
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg">{STYLE}{rest}\n'


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text, "utf-8")
    sys.stdout.write(f"{len(documents())} files in {FOLDER}\n")


if __name__ == "__main__":
    main()
