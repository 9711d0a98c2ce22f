"""The pages: HTML made on the server, complete without JavaScript, on the same use cases as the API."""

from functools import partial

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
from app.web.request import for_operators, signed_in
from app.web.session import open_session

__all__ = ["error_page", "routes"]


async def home(request: Request) -> Response:
    """One's timeline, or for a stranger what this is."""
    account = (await open_session(request)).account
    return await signed_in(home_timeline.home_timeline)(request) if account else await entrance.welcome(request)


POST = ["POST"]
BOTH = ["GET", "POST"]

routes: list[BaseRoute] = [
    Route("/", home),
    Route("/sign-up", entrance.sign_up, methods=BOTH),
    Route("/sign-in", entrance.sign_in, methods=BOTH),
    Route("/sign-in-as", entrance.sign_in_as, methods=POST),
    Route("/sign-out", entrance.sign_out, methods=POST),
    Route("/timeline/refresh", signed_in(home_timeline.refresh), methods=POST),
    Route("/live", live_stream.events_of_page),
    Route("/statuses", partial(home_timeline.post, stranger=entrance.sign_in_to_post), methods=POST),
    Route("/statuses/{id}", signed_in(home_timeline.show_status)),
    Route("/statuses/{id}/delete", signed_in(home_timeline.delete), methods=POST),
    Route("/statuses/{id}/like", signed_in(home_timeline.like), methods=POST),
    Route("/statuses/{id}/unlike", signed_in(home_timeline.unlike), methods=POST),
    Route("/notifications", signed_in(notifications.notifications)),
    Route("/notifications/read", signed_in(notifications.mark_read), methods=POST),
    Route("/conversations", signed_in(conversations.conversations)),
    Route("/conversations/{id}", signed_in(conversations.conversation)),
    Route("/conversations/{id}/messages", signed_in(conversations.send), methods=POST),
    Route("/conversations/{id}/receipt", signed_in(conversations.receipt), methods=POST),
    Route("/conversations/{id}/picture", signed_in(conversations.send_picture, limited=False), methods=POST),
    Route("/conversations/{id}/messages/{seq}/delete", signed_in(conversations.delete), methods=POST),
    *(Route(f"/conversations/{{id}}/{act}", conversations.silence(act), methods=POST) for act in conversations.ACTS),
    Route("/images/{id}", signed_in(conversations.picture)),
    Route("/people", signed_in(people.people)),
    Route("/muted", signed_in(people.muted)),
    Route("/settings", signed_in(settings.settings)),
    Route("/settings/name", signed_in(settings.rename), methods=POST),
    Route("/settings/presence", signed_in(settings.hide), methods=POST),
    Route("/settings/password", signed_in(settings.change_password, limited=False), methods=POST),
    Route("/settings/export", signed_in(settings.export)),
    Route("/settings/delete", signed_in(settings.delete, limited=False), methods=POST),
    Route("/@{handle}", people.person("statuses")),
    Route("/@{handle}/followers", people.person("followers")),
    Route("/@{handle}/following", people.person("following")),
    Route("/@{handle}/conversation", signed_in(conversations.open_conversation), methods=POST),
    *(Route(f"/@{{handle}}/{name}", people.act(name), methods=POST) for name in people.ACTS),
    Route("/compare", signed_in(side_by_side.side_by_side)),
    Route("/compare/post", signed_in(side_by_side.post), methods=POST),
    Route("/compare/deliveries/{id}", signed_in(side_by_side.delivery)),
    Route("/compare/deliveries/{id}/live", signed_in(side_by_side.delivery_live)),
    Route("/phases", signed_in(dashboard.phases), methods=BOTH),
    Route("/operations", for_operators(dashboard.dashboard)),
    Route("/operations/authors", for_operators(dashboard.authors), methods=BOTH),
    Route("/operations/live", for_operators(dashboard.live)),
    *(Route(f"/operations/{name}", dashboard.press(name), methods=POST) for name in dashboard.BUTTONS),
    Mount("/static", Static(directory=FOLDER / "static"), name="static"),
]
