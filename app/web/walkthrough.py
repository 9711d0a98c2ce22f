"""The walkthrough's pages: the text, the source and the pictures of each chapter, and its experiment."""

from collections.abc import Callable
from functools import cache
from typing import Any

from bson import ObjectId
from markdown_it import MarkdownIt
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.errors import Forbidden, NotFound
from app.walkthrough.book import Block, Chapter, chapters, recorded
from app.walkthrough.costs import ACTIONS, claims
from app.walkthrough.drawing import chart_svg, diagram_svg
from app.walkthrough.experiments import EXPERIMENTS
from app.walkthrough.laboratory import Laboratory
from app.walkthrough.source import changes, listing
from app.web.render import TEMPLATES, render
from app.web.request import accounts_of, stack_of, to
from app.web.session import field, open_session, posted

LOOK_AGAIN_S = 1  # without JavaScript: how often the page of a run that is under way is loaded again


def _laboratory(request: Request) -> Laboratory:
    return request.app.state.laboratory  # type: ignore[no-any-return]


async def contents(request: Request) -> Response:
    await open_session(request)
    return render(request, "walkthrough/contents.html", chapters=chapters())


async def chapter(request: Request) -> Response:
    one = _chapter(request)
    may_run, real = await _may_run(request), _real(request)
    return render(
        request,
        "walkthrough/chapter.html",
        chapter=one,
        chapters=chapters(),
        blocks=_blocks(one),
        actions=ACTIONS,
        may_run=may_run,
        real=real,
        stands_at=EXPERIMENTS[one.experiment].values({}, real=real) if one.experiment else {},
    )


async def begin(request: Request) -> Response:
    """Start the chapter's experiment. Raises Forbidden, Invalid, and TooMany while another one is running."""
    one = _chapter(request)
    form = await posted(request)
    if not await _may_run(request):
        raise Forbidden("Experiments are for administrators, and for everybody in demo mode.")
    if one.experiment is None:
        raise NotFound("This chapter has no experiment.")
    given = {knob.name: field(form, knob.name) for knob in EXPERIMENTS[one.experiment].knobs}
    run = await _laboratory(request).begin(one.experiment, given)
    return to(f"/walkthrough/{one.slug}/runs/{run}")


async def run(request: Request) -> Response:
    """A run, under way or over. `?part=1`: without the page around it, for the script of the chapter."""
    one, id = _chapter(request), request.path_params["id"]
    await open_session(request)
    found = await _laboratory(request).run(ObjectId(id)) if ObjectId.is_valid(id) else None
    if found is None or found.slug != one.experiment:
        raise NotFound("There is no such run; what was found is kept for a day.")
    template = "walkthrough/run_part.html" if "part" in request.query_params else "walkthrough/run.html"
    response = render(
        request,
        template,
        chapter=one,
        chapters=chapters(),
        run=found,
        experiment=EXPERIMENTS[found.slug],
        may_run=await _may_run(request),
        real=_real(request),
    )
    response.headers["X-Run-State"] = found.state
    if found.state == "running" and "part" not in request.query_params:
        response.headers["Refresh"] = str(LOOK_AGAIN_S)
    return response


def _chapter(request: Request) -> Chapter:
    for one in chapters():
        if one.slug == request.path_params["slug"]:
            return one
    raise NotFound("There is no such chapter.")


def _real(request: Request) -> bool:
    """Whether times measured here mean something."""
    return not stack_of(request).addresses.one_process


async def _may_run(request: Request) -> bool:
    account = (await open_session(request)).account
    return await accounts_of(request).operates(account.id if account else None)


@cache
def _blocks(one: Chapter) -> list[dict[str, Any]]:
    """What each block shows: made once, since neither the text nor the code changes while it runs."""
    return [{"kind": block.kind, **SHOWN[block.kind](block)} for block in one.blocks]


def _code(block: Block) -> dict[str, Any]:
    found = listing(block.what)
    return {"listing": found, "html": coloured(found.code, "python")}


def _changes(block: Block) -> dict[str, Any]:
    found = changes(block.what)
    return {"found": found, "differences": [(name, coloured(diff, "diff")) for name, diff in found.replaced]}


SHOWN: dict[str, Callable[[Block], dict[str, Any]]] = {
    "text": lambda block: {"html": prose(block.text)},
    "diagram": lambda block: {"svg": diagram_svg(block.what)},
    "listing": _code,
    "aside": _code,
    "changes": _changes,
    "costs": lambda block: {"claims": claims(block.what)},
    "measured": lambda block: {"recorded": recorded(block.what)},
    "experiment": lambda block: {"experiment": EXPERIMENTS[block.what], "recorded": recorded(block.what)},
    "question": lambda block: {"words": words(block.what), "html": prose(block.text)},
}


def coloured(code: str, language: str) -> Markup:
    """Tokens in elements with Pygments' short class names."""
    return Markup(highlight(code, get_lexer_by_name(language, stripnl=False), HtmlFormatter(nowrap=True)))


def _fence(code: str, language: str, _attributes: str) -> str:
    return coloured(code, language) if language else ""


MARKDOWN = MarkdownIt("commonmark", {"html": False, "typographer": True, "highlight": _fence})
MARKDOWN.enable(["table", "smartquotes"])


def prose(text: str) -> Markup:
    """Our own Markdown; raw HTML in it is shown, not meant. What is too wide can be scrolled, by keyboard too."""
    return Markup(
        MARKDOWN.render(text)
        .replace("<pre>", '<pre tabindex="0">')
        .replace("<table>", '<div class="card scroll" tabindex="0" role="region" aria-label="Table"><table>')
        .replace("</table>", "</table></div>")
    )


def words(text: str) -> Markup:
    """Markdown within one line."""
    return Markup(MARKDOWN.renderInline(text))


TEMPLATES.filters |= {"chart": chart_svg, "words": words}

routes: list[BaseRoute] = [
    Route("/walkthrough", contents),
    Route("/walkthrough/{slug}", chapter),
    Route("/walkthrough/{slug}/runs", begin, methods=["POST"]),
    Route("/walkthrough/{slug}/runs/{id}", run),
]
