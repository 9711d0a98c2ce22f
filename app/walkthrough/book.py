"""The text of the walkthrough: `templates/walkthrough/*.md`, Markdown with a few directives, read once.

A line that begins with `::` asks for something that is not written but read or measured:

    ::diagram NAME        a picture (app/walkthrough/drawing.py)
    ::listing DOTTED      the real source; ::aside DOTTED the same, folded away
    ::changes PHASE       what the phase does differently from the one before
    ::costs PHASE         its claims in commands (app/walkthrough/costs.py)
    ::measured EXPERIMENT the sentence of the recorded run
    ::experiment EXPERIMENT   the experiment itself
    ::question WORDS      a question; its answer is the text up to the next directive
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import templates
from app.walkthrough.result import Result

FOLDER = Path(templates.__file__).parent / "walkthrough"
MEASURED = FOLDER / "measured.json"

Kind = Literal["text", "diagram", "listing", "aside", "changes", "costs", "measured", "experiment", "question"]


@dataclass(frozen=True)
class Block:
    """`what`: the words behind the directive. `text`: Markdown, of a text and of an answer."""

    kind: Kind
    what: str = ""
    text: str = ""


@dataclass(frozen=True)
class Chapter:
    """`lead`: the first paragraph, shown in the table of contents too."""

    number: int
    slug: str
    title: str
    lead: str
    blocks: tuple[Block, ...]

    @property
    def experiment(self) -> str | None:
        return next((block.what for block in self.blocks if block.kind == "experiment"), None)


class BookError(ValueError):
    """The text cannot be read; the message says where."""


@cache
def chapters() -> tuple[Chapter, ...]:
    return tuple(_chapter(path) for path in sorted(FOLDER.glob("[0-9]-*.md")))


def _chapter(path: Path) -> Chapter:
    number, _, slug = path.stem.partition("-")
    head, _, body = path.read_text("utf-8").partition("\n\n")
    lead, _, rest = body.partition("\n\n")
    if not head.startswith("# "):
        raise BookError(f"{path.name} does not begin with a title")
    return Chapter(int(number), slug, head.removeprefix("# "), " ".join(lead.split()), tuple(_blocks(path, rest)))


def _blocks(path: Path, body: str) -> Iterator[Block]:
    kind, what, lines = "text", "", list[str]()
    fenced = False

    def block() -> Iterator[Block]:
        text = "\n".join(lines).strip("\n")
        if kind in ("text", "question"):
            if text or kind == "question":
                yield Block(kind, what, text)  # type: ignore[arg-type]
            return
        yield Block(kind, what)  # type: ignore[arg-type]
        if text:
            yield Block("text", "", text)

    for line in body.splitlines():
        fenced ^= line.startswith("```")
        if fenced or not line.startswith("::"):
            lines.append(line)
            continue
        yield from block()
        kind, _, what = line.removeprefix("::").partition(" ")
        lines = []
        if kind not in get_args(Kind) or kind == "text":
            raise BookError(f"{path.name}: there is no directive ::{kind}")
    yield from block()


@dataclass(frozen=True)
class Recorded:
    """A run of an experiment that is printed with the text. `where`: machine and servers, `when`: the day."""

    where: str
    when: str
    values: dict[str, int]
    result: Result


@cache
def recorded(slug: str) -> Recorded:
    """Raises KeyError."""
    measured = json.loads(MEASURED.read_text("utf-8"))
    found = measured["results"][slug]
    return Recorded(measured["where"], measured["when"], found["values"], Result.model_validate(found["result"]))
