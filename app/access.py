"""The decision who may see what: the article's `access_allow?`, one function, used by every phase, page and endpoint;
and what of it belongs on a home timeline.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from bson import ObjectId

from app.edges import OwnEdges, Reader, View
from app.models import Audience, StatusRow, change_tag, like_key
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, Rows, together

FIELDS = ("_id", "user_id", "text", "audience")  # of a status, as its delivery needs them
SHOWN = (*FIELDS, "likes")  # as a page needs them


class Entry(NamedTuple):
    """A place in a timeline: a status id and, where the store knows it, its author."""

    id: ObjectId
    author: ObjectId | None = None


def visible(status: StatusRow, reader: Reader) -> bool:
    """Return whether the reader may see a status: the definition of the timeline that
    every phase returns. `reader` says everything that it depends on.
    """
    author = status.user_id
    if status.audience is None or author in reader.departed:  # it or they are deleted
        return False
    if author == reader.id:
        return True
    follows, blocked, in_circle, _ = reader.relations[author]
    if not follows or blocked:
        return False
    match status.audience:
        case "followers":
            return True
        case "mutuals":
            return reader.followed_by[author]
        case "circle":
            return in_circle


def on_home(status: StatusRow, reader: Reader) -> bool:
    """Return whether a status is on the reader's home timeline. A single status and a person's page go by `visible`."""
    return visible(status, reader) and (status.user_id == reader.id or not reader.relations[status.user_id].muted)


Shows = Callable[[StatusRow, Reader], bool]  # `visible` or `on_home`
AsRow = Callable[[Mapping[str, Any]], StatusRow]  # makes the status of a document


def statuses_by_id(ids: Sequence[ObjectId], fields: tuple[str, ...]) -> Find:
    return Find("statuses", {"_id": {"$in": ids}}, fields, len(ids), by="_id")


def liked_among(reader: ObjectId, ids: Sequence[ObjectId]) -> Find:
    """Return the look-up of those that the reader likes, by `like_key`: answered by an index alone."""
    keys = [like_key(reader, id) for id in ids]
    return Find("likes", {"_id": {"$in": keys}}, ("_id",), len(keys), by="_id")


async def shown_among(
    db: Database,
    view: View,
    statuses: Sequence[StatusRow],
    shows: Shows,
) -> list[StatusRow]:
    """Return those that the reader is shown now: what that depends on is looked up
    first, then each is judged. Edges that are newer than a status may let the reader
    in after it was deleted, so that is looked up with them.
    """
    # Again when the edges changed between two look-ups.
    while missing := view.missing(statuses):
        view.learn(await together(db, **missing, gone=deleted_among(statuses)))
    reader = view.reader()
    there = [s for s in statuses if s.id not in view.gone] if view.gone else statuses
    return [s for s in there if shows(s, reader)]


def deleted_among(statuses: Sequence[StatusRow]) -> Find:
    """Return the look-up of which of these are `deleted`, among those that have changed."""
    return changed_among([status.id for status in statuses], ("_id", "deleted"))


def changed_among(ids: Sequence[ObjectId], fields: tuple[str, ...]) -> Find:
    return Find.tagged("statuses", [change_tag(id) for id in ids], fields, len(ids))


def statuses_shown(
    reader: ObjectId, ids: Sequence[ObjectId], known: Collection[ObjectId] = frozenset()
) -> dict[str, Find]:
    """Return the look-ups of statuses, unless they are known, and of what the reader likes of them; `shown_rows` reads
    the answers.
    """
    if not ids:
        return {}
    unknown = [id for id in ids if id not in known] if len(known) < len(ids) else []
    statuses = {"statuses": statuses_by_id(unknown, SHOWN)} if unknown else {}
    return {**statuses, "liked": liked_among(reader, ids)}


def shown_rows(
    answers: Mapping[str, Rows], as_row: AsRow = StatusRow.of, known: Iterable[StatusRow] = ()
) -> dict[ObjectId, StatusRow]:
    """Return these statuses, by id, as the reader is shown them. `known`: those that were not looked up."""
    yours = {row["_id"][12:] for row in answers.get("liked", ())}
    shown = [*known, *map(as_row, answers.get("statuses", ()))]
    return {row.id: row._replace(you_like=True) if row.id.binary in yours else row for row in shown}


async def hydrate(
    db: Database,
    view: View,
    entries: Sequence[Entry],
    at_hand: Sequence[StatusRow] = (),
    as_row: AsRow = StatusRow.of,
) -> dict[ObjectId, StatusRow]:
    """Return the entries' statuses by id. One command looks them up, with what the reader likes of them and with the
    edges to those authors whom the entries name. These edges may let the reader in to what is `at_hand`, so the command
    asks also which of that is deleted.
    """
    finds = view.anew([entry.author for entry in entries if entry.author])
    if at_hand and finds.keys() > {"versions"}:  # who is let in has edges that are looked up here
        finds["gone"] = deleted_among(at_hand)
    shown = statuses_shown(view.edges.reader, [entry.id for entry in entries])
    answers = await together(db, **shown, **finds)
    view.learn(answers)
    return shown_rows(answers, as_row)


async def visible_status(db: Database, reader: ObjectId, id: ObjectId) -> StatusRow | None:
    """Return the status, if it exists and the reader may see it now; None otherwise."""
    view = View(OwnEdges(reader))
    rows = await hydrate(db, view, [Entry(id)])
    return next(iter(await shown_among(db, view, list(rows.values()), visible)), None)


async def audiences(db: Database, view: View, author: ObjectId) -> list[Audience]:
    """Return the audiences through which the reader may see this author's statuses now."""
    samples = [StatusRow(author, author, "", audience) for audience in get_args(Audience)]
    seen = await shown_among(db, view, samples, visible)
    return [status.audience for status in seen if status.audience]
