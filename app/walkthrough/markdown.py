"""The walkthrough for readers on a code host: `python -m app.walkthrough.markdown` writes docs/walkthrough/."""

import re
import sys
from pathlib import Path

import templates
from app.walkthrough.book import Chapter, chapters
from app.walkthrough.directives import charts
from app.walkthrough.drawing import Drawing, diagram
from app.walkthrough.experiments import EXPERIMENTS
from app.walkthrough.result import recorded

FOLDER = Path(__file__).parents[2] / "docs" / "walkthrough"
NOTE = "<!-- Written by `python -m app.walkthrough.markdown` from templates/walkthrough/; change it there. -->"

# Colours of a drawing that stands alone in a file; on the pages style.css and walkthrough.css give them.
STYLE = f"<style>\n{(Path(templates.__file__).parent / 'walkthrough' / 'alone.css').read_text('utf-8')}</style>"


def documents() -> dict[str, str]:
    """Return the text of each file in docs/walkthrough/, by file name."""
    files, drawings = {"README.md": _contents()}, dict[str, Drawing]()
    for chapter in chapters():
        files[_name(chapter)] = _document(chapter)
        drawings[chapter.slug] = diagram(chapter.slug)
        if chapter.experiment:
            drawings |= charts(chapter.experiment, recorded(chapter.experiment).result)
    return files | {f"{name}.svg": _standing_alone(drawing.svg) for name, drawing in drawings.items()}


def _name(chapter: Chapter) -> str:
    return f"{chapter.number}-{chapter.slug}.md"


def _contents() -> str:
    lines = [f"{c.number}. [{c.title}]({_name(c)})  \n   {c.lead}" for c in chapters()]
    about = (
        "The same text as the pages at `/walkthrough` of a running Feedlab, where every experiment has a button: "
        "`feedlab serve --demo`, then `feedlab walkthrough`. Listings, costs and figures are read from the code and "
        "from recorded runs. A figure is the median of several runs; the middle half of them is in brackets behind it."
    )
    return "\n\n".join([NOTE, "# The walkthrough", about, "\n".join(lines)]) + "\n"


def _document(chapter: Chapter) -> str:
    parts = [NOTE, f"# {chapter.number}. {chapter.title}", f"*{chapter.lead}*", chapter.before]
    if chapter.experiment:
        experiment = EXPERIMENTS[chapter.experiment]
        parts += [f"**{experiment.title}.** {experiment.about}", chapter.findings, chapter.after]
    return _linked("\n\n".join([*parts, "---", _turn(chapter)])) + "\n"


def _linked(text: str) -> str:
    """Return the text with links to chapters leading to their files.

    Of a page of the running site the name alone is left.
    """
    names = {f"/walkthrough/{chapter.slug}": _name(chapter) for chapter in chapters()}

    def link(found: re.Match[str]) -> str:
        words, page, anchor = found.groups()
        return f"[{words}]({names[page]}{anchor})" if page in names else f"**{words}**"

    return re.sub(r"\[([^\]]+)\]\((/[^)#]*)(#?[^)]*)\)", link, text)


def _turn(chapter: Chapter) -> str:
    others = {other.number: other for other in chapters()}
    links = ["[Contents](README.md)"]
    for step, word in ((-1, "Before"), (1, "Next")):
        if other := others.get(chapter.number + step):
            links.append(f"{word}: [{other.title}]({_name(other)})")
    return " · ".join(links)


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
