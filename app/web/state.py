"""What `create_app` has put into the application, by name and type."""

from starlette.requests import HTTPConnection

from app.accounts import Accounts
from app.inbox.conversations import Conversations
from app.inbox.notifications import Notifications
from app.inbox.pictures import Pictures
from app.live.hub import Hub
from app.live.presence import Presences
from app.social import Social
from app.stack import Stack
from phases.timelines import Timelines


def stack_of(request: HTTPConnection) -> Stack:
    return request.app.state.stack  # type: ignore[no-any-return]


def accounts_of(request: HTTPConnection) -> Accounts:
    return request.app.state.accounts  # type: ignore[no-any-return]


def timelines_of(request: HTTPConnection) -> Timelines:
    return request.app.state.timelines  # type: ignore[no-any-return]


def social_of(request: HTTPConnection) -> Social:
    return request.app.state.social  # type: ignore[no-any-return]


def notifications_of(request: HTTPConnection) -> Notifications:
    return request.app.state.notifications  # type: ignore[no-any-return]


def conversations_of(request: HTTPConnection) -> Conversations:
    return request.app.state.conversations  # type: ignore[no-any-return]


def pictures_of(request: HTTPConnection) -> Pictures:
    return request.app.state.pictures  # type: ignore[no-any-return]


def presences_of(request: HTTPConnection) -> Presences:
    return request.app.state.presences  # type: ignore[no-any-return]


def hub_of(request: HTTPConnection) -> Hub:
    return request.app.state.hub  # type: ignore[no-any-return]
