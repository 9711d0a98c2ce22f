"""A word on the next page about what somebody has just done. It is said once."""

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.web import session
from app.web.session import local_address

COOKIE = "feedlab_done"
LIVES_S = 60  # until the next page is there
WORDS = {  # {}: the handle of the person it is about
    "posted": "Posted.",
    "deleted": "Deleted.",
    "renamed": "Your name is changed.",
    "password": "Your password is changed. All your other sessions are signed out.",
    "hidden": "Nobody sees any more whether you are here.",
    "shown": "People whom you follow and who follow you see whether you are here.",
    "left": "Your account is deleted.",
    "refreshed": "Your list is filled again.",
    "switched": "Switched: every process knows it within a second.",
    "chosen": "Chosen, for statuses from now on.",
    "follow": "You follow @{}.",
    "unfollow": "You do not follow @{} any more.",
    "block": "You block @{}.",
    "unblock": "You do not block @{} any more.",
    "add-to-circle": "@{} is in your circle.",
    "remove-from-circle": "@{} is not in your circle any more.",
    "mute": "You mute @{}: what they post is not on your timeline.",
    "silence": "Silenced: its messages are not counted on the badge.",
    "unsilence": "Not silenced any more.",
    "sent": "Sent.",
    "unmute": "You do not mute @{} any more.",
    "retry": "The dead letters are queued again.",
    "pause": "Workers are paused: what they would deliver stays pending, and every timeline shows it all the same.",
    "resume": "Workers go on.",
    "flush": "The lists in Memcached are forgotten, and the sets in Redis: everybody is cold until their next read.",
    "send-away": "Nine in ten people are away now: phases 4 to 6 skip them until they return.",
}

UNDO = {"mute": "unmute"}


def done(request: Request, place: str, what: str, handle: str = "") -> Response:
    """Redirect to `place`, where the words for `what` are shown."""
    response = RedirectResponse(local_address(place), 303)
    session.remember(request, response, COOKIE, f"{what}.{handle}", LIVES_S)
    return response


@dataclass(frozen=True)
class Said:
    """The words about what was done. `undo`: the act on the person of this handle that takes it back."""

    what: str
    words: str
    handle: str
    undo: str | None


def said(request: Request) -> Said | None:
    """Return what this page says about the last act; None where the cookie is missing or not ours."""
    kept = re.fullmatch(r"([a-z-]+)\.(\w{0,30})", session.kept(request, COOKIE), re.ASCII)
    if not kept or kept[1] not in WORDS:
        return None
    what, handle = kept.groups()
    return Said(what, WORDS[what].format(handle), handle, UNDO.get(what))
