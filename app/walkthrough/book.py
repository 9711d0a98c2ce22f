"""The chapters of the walkthrough, read once from `templates/walkthrough/*.md`.

The line `::experiment NAME` marks the place of the chapter's experiment; `app/walkthrough/directives.py` knows the
other directives.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import templates
from app.walkthrough.directives import expanded, recorded_findings

FOLDER = Path(templates.__file__).parent / "walkthrough"


@dataclass(frozen=True)
class Chapter:
    """A chapter of the walkthrough.

    `lead`: the first paragraph, shown in the table of contents too. `before` and `after`: the text around the place of
    the experiment, as Markdown.
    """

    number: int
    slug: str
    title: str
    lead: str
    before: str
    experiment: str | None
    after: str

    @property
    def findings(self) -> str:
        """What the experiment found in the recorded run, as Markdown; "" without one."""
        return recorded_findings(self.experiment, self.before) if self.experiment else ""


class BookError(ValueError):
    """The text of a chapter cannot be read; the message says where."""


@cache
def chapters() -> tuple[Chapter, ...]:
    return tuple(_chapter(path) for path in sorted(FOLDER.glob("[0-9]-*.md")))


def _chapter(path: Path) -> Chapter:
    number, _, slug = path.stem.partition("-")
    title, lead, text = path.read_text("utf-8").split("\n\n", 2)
    if not title.startswith("# "):
        raise BookError(f"{path.name} does not begin with a title")
    before, _, rest = text.partition("\n::experiment ")
    experiment, _, after = rest.partition("\n")
    try:
        return Chapter(int(number), slug, title[2:], lead, expanded(before), experiment or None, expanded(after))
    except LookupError as error:
        raise BookError(f"{path.name}: {error}") from error
