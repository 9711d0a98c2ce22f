"""The pages of the walkthrough: the text, the source and the pictures of each chapter, and its experiment."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from bson import ObjectId
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import EnvType
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.errors import Forbidden, NotFound
from app.walkthrough.book import Chapter, chapters
from app.walkthrough.directives import beside_the_recorded, charts, findings
from app.walkthrough.drawing import Drawing, diagram
from app.walkthrough.experiments import EXPERIMENTS
from app.walkthrough.laboratory import LIMIT_S, Laboratory, Run
from app.walkthrough.result import recorded
from app.walkthrough.source import TOP
from app.web.caller import address_of
from app.web.render import render
from app.web.request import to
from app.web.session import field, open_session, posted
from app.web.state import services

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
        **_page(one),
        may_run=may_run,
        real=real,
        limit_s=int(LIMIT_S),
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
    account = (await open_session(request)).account
    run = await _laboratory(request).begin(one.experiment, given, str(account.id) if account else address_of(request))
    return to(f"/walkthrough/{one.slug}/runs/{run}")


async def run(request: Request) -> Response:
    """Show a run, under way or over. `?part=1`: without the page around it, for the script of the chapter."""
    one, id = _chapter(request), request.path_params["id"]
    await open_session(request)
    shown = await _laboratory(request).run(ObjectId(id)) if ObjectId.is_valid(id) else None
    if shown is None or shown.slug != one.experiment:
        raise NotFound("There is no such run; what was found is kept for a day.")
    template = "walkthrough/run_part.html" if "part" in request.query_params else "walkthrough/run.html"
    response = render(
        request,
        template,
        chapter=one,
        chapters=chapters(),
        run=shown,
        experiment=EXPERIMENTS[shown.slug],
        findings=_findings(shown),
        may_run=await _may_run(request),
        real=_real(request),
    )
    response.headers["X-Run-State"] = shown.state
    if shown.state == "running" and "part" not in request.query_params:
        response.headers["Refresh"] = str(LOOK_AGAIN_S)
    return response


def _findings(shown: Run) -> Markup:
    if shown.result is None:
        return Markup()
    here = findings(shown.slug, "Measured here just now", shown.values, shown.result)
    text = f"{here}\n\n{beside_the_recorded(shown.slug, shown.result)}"
    return prose(text, charts(shown.slug, shown.result))


async def source(request: Request) -> Response:
    """Show a whole file that some chapter shows a part of, with line numbers. Raises NotFound for any other."""
    path = request.path_params["path"]
    await open_session(request)
    if path not in _shown_files():
        raise NotFound("No chapter shows this file.")
    return render(request, "walkthrough/source.html", path=path, lines=_lines(path))


@cache
def _shown_files() -> frozenset[str]:
    texts = (f"{one.before}\n{one.after}" for one in chapters())
    return frozenset(path for text in texts for path in re.findall(r"\]\(\.\./\.\./([^)#]+)", text))


@cache
def _lines(path: str) -> tuple[Markup, ...]:
    language = "python" if path.endswith(".py") else "text"
    return tuple(Markup(line) for line in _fence((TOP / path).read_text("utf-8"), language, "").splitlines())


def _chapter(request: Request) -> Chapter:
    for one in chapters():
        if one.slug == request.path_params["slug"]:
            return one
    raise NotFound("There is no such chapter.")


def _real(request: Request) -> bool:
    """Return whether times measured here mean something: on stand-ins they do not."""
    return not services(request).stack.addresses.one_process


async def _may_run(request: Request) -> bool:
    account = (await open_session(request)).account
    return await services(request).accounts.operates(account.id if account else None)


@cache
def _page(one: Chapter) -> dict[str, Any]:
    """Return the parts of a chapter's page that do not change while this process runs."""
    if one.experiment is None:
        return {"before": prose(one.before), "after": "", "experiment": None}
    drawings = charts(one.experiment, recorded(one.experiment).result)
    return {
        "before": prose(one.before),
        "after": prose(one.after),
        "experiment": EXPERIMENTS[one.experiment],
        "recorded": prose(one.findings, drawings),
    }


def _fence(code: str, language: str, _attributes: str) -> str:
    """Highlight code: tokens in elements with Pygments' short class names."""
    lexer = get_lexer_by_name(language or "text", stripnl=False)
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def _image(_renderer: RendererHTML, tokens: Sequence[Token], at: int, _options: object, drawings: EnvType) -> str:
    """Put a drawing inside the page, where it takes the page's colours, in the dark too."""
    name = str(tokens[at].attrs["src"]).removesuffix(".svg")
    return str((drawings.get(name) or diagram(name)).svg)


def _anchors(state: StateCore) -> None:
    """Make each heading a link to itself, under the name that code hosts give it."""
    for heading, words in pairwise(state.tokens):
        if heading.type == "heading_open" and words.children is not None:
            anchor = re.sub(r"[^\w -]", "", words.content.lower()).replace(" ", "-")
            heading.attrSet("id", anchor)
            begin, end = Token("link_open", "a", 1), Token("link_close", "a", -1)
            begin.attrs = {"href": f"#{anchor}", "class": "anchor"}
            words.children = [begin, *words.children, end]


MARKDOWN = MarkdownIt("commonmark", {"html": True, "typographer": True, "highlight": _fence})
MARKDOWN.enable(["table", "smartquotes"])
MARKDOWN.add_render_rule("image", _image)
MARKDOWN.core.ruler.push("anchors", _anchors)


def prose(text: str, drawings: Mapping[str, Drawing] | None = None) -> Markup:
    """Render our own Markdown, as in docs/walkthrough/.

    Parts that are too wide can be scrolled, by keyboard too; a link to a file leads to its page here.
    """
    html = MARKDOWN.render(text, dict(drawings or {}))
    html = html.replace("<pre>", '<pre tabindex="0">')
    html = html.replace("<table>", '<div class="card scroll" tabindex="0" role="group" aria-label="Table"><table>')
    html = html.replace("</table>", "</table></div>")
    return Markup(html.replace('<a href="../../', '<a href="/walkthrough/source/'))


routes: list[BaseRoute] = [
    Route("/walkthrough", contents),
    Route("/walkthrough/source/{path:path}", source),
    Route("/walkthrough/{slug}", chapter),
    Route("/walkthrough/{slug}/runs", begin, methods=["POST"]),
    Route("/walkthrough/{slug}/runs/{id}", run),
]
