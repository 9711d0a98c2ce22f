"""The pages: HTML made on the server, complete without JavaScript, on the same use cases as the API."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from app.web import (
    conversations,
    dashboard,
    entrance,
    home_timeline,
    live_stream,
    notifications,
    people,
    settings,
    side_by_side,
)
from app.web.render import FOLDER, Static, error_page
from app.web.request import Endpoint, for_operators, signed_in, to, typed_is_kept
from app.web.session import open_session

__all__ = ["error_page", "routes"]


async def home(request: Request) -> Response:
    """Show one's timeline, or to a stranger a page that says what this is."""
    account = (await open_session(request)).account
    return await signed_in(home_timeline.home_timeline)(request) if account else await entrance.welcome(request)


POST = ["POST"]
BOTH = ["GET", "POST"]
# The pages of forms with something typed or chosen. Where one is refused, it is shown again at its own address, which a
# phone may open once more.
FORMS = {
    "/sign-in-as": "/sign-in",
    "/statuses": "/",
    "/conversations/{id}/messages": "/conversations/{id}",
    "/conversations/{id}/picture": "/conversations/{id}",
    **{f"/settings/{name}": "/settings" for name in ("name", "presence", "password", "delete")},
    **{f"/@{{handle}}/{name}": "/@{handle}" for name in people.ACTS},
    "/compare/post": side_by_side.COMPARE,
}


def page(path: str, endpoint: Endpoint, methods: Sequence[str] | None = None) -> Route:
    if path in FORMS:
        endpoint, methods = _or_its_page(endpoint, FORMS[path]), BOTH
    return Route(path, typed_is_kept(endpoint), methods=methods)


def _or_its_page(form: Endpoint, place: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return await form(request) if request.method == "POST" else to(place.format(**request.path_params))

    return endpoint


routes: list[BaseRoute] = [
    page("/", home),
    page("/sign-up", entrance.sign_up, methods=BOTH),
    page("/sign-in", entrance.sign_in, methods=BOTH),
    page("/sign-in-as", entrance.sign_in_as, methods=POST),
    page("/sign-out", entrance.sign_out, methods=POST),
    page("/timeline/refresh", signed_in(home_timeline.refresh), methods=POST),
    page("/live", live_stream.events_of_page),
    page("/statuses", entrance.typed(home_timeline.post), methods=POST),
    page("/statuses/{id}", signed_in(home_timeline.show_status)),
    page("/statuses/{id}/delete", signed_in(home_timeline.delete), methods=POST),
    page("/statuses/{id}/like", signed_in(home_timeline.like), methods=POST),
    page("/statuses/{id}/unlike", signed_in(home_timeline.unlike), methods=POST),
    page("/notifications", signed_in(notifications.notifications)),
    page("/notifications/read", signed_in(notifications.mark_read), methods=POST),
    page("/conversations", signed_in(conversations.conversations)),
    page("/conversations/{id}", signed_in(conversations.conversation)),
    page("/conversations/{id}/messages", entrance.typed(conversations.send), methods=POST),
    page("/conversations/{id}/receipt", signed_in(conversations.receipt), methods=POST),
    page("/conversations/{id}/picture", signed_in(conversations.send_picture, limited=False), methods=POST),
    page("/conversations/{id}/messages/{seq}/delete", signed_in(conversations.delete), methods=POST),
    *(page(f"/conversations/{{id}}/{act}", conversations.silence(act), methods=POST) for act in conversations.ACTS),
    page("/images/{id}", signed_in(conversations.picture)),
    page("/people", signed_in(people.people)),
    page("/muted", signed_in(people.muted)),
    page("/settings", signed_in(settings.settings)),
    page("/settings/name", signed_in(settings.rename), methods=POST),
    page("/settings/presence", signed_in(settings.hide), methods=POST),
    page("/settings/password", signed_in(settings.change_password, limited=False), methods=POST),
    page("/settings/export", signed_in(settings.export)),
    page("/settings/delete", signed_in(settings.delete, limited=False), methods=POST),
    page("/@{handle}", people.person("statuses")),
    page("/@{handle}/followers", people.person("followers")),
    page("/@{handle}/following", people.person("following")),
    page("/@{handle}/conversation", signed_in(conversations.open_conversation), methods=POST),
    *(page(f"/@{{handle}}/{name}", people.act(name), methods=POST) for name in people.ACTS),
    page(side_by_side.COMPARE, signed_in(side_by_side.side_by_side)),
    page("/compare/post", entrance.typed(side_by_side.post), methods=POST),
    page("/compare/deliveries/{id}", signed_in(side_by_side.delivery)),
    page("/compare/deliveries/{id}/live", signed_in(side_by_side.delivery_live)),
    page("/phases", signed_in(dashboard.phases), methods=BOTH),
    page("/operations", for_operators(dashboard.dashboard)),
    page("/operations/authors", for_operators(dashboard.authors), methods=BOTH),
    page("/operations/live", for_operators(dashboard.live)),
    *(page(f"/operations/{name}", dashboard.press(name), methods=POST) for name in dashboard.BUTTONS),
    Mount("/static", Static(directory=FOLDER / "static"), name="static"),
]
