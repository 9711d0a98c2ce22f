"""Who may see what: the article's `access_allow?`, one function, used by every phase, page and endpoint."""

from collections.abc import Sequence
from typing import NamedTuple, get_args

from bson import ObjectId

from app.edges import Known, Reader, View
from app.models import Audience, StatusRow
from app.stack.mongodb import Database, Find, together

FIELDS = ("_id", "user_id", "text", "audience")  # of a status, as StatusRow has them


class Entry(NamedTuple):
    """A place in a timeline: a status id and, where the store knows it, its author."""

    id: ObjectId
    author: ObjectId | None = None


def visible(status: StatusRow, reader: Reader) -> bool:
    """DESIGN §2: the definition that every phase returns the timeline of.

    Raises KeyError where the answer depends on an edge that has not been looked up.
    """
    author = status.user_id
    if status.audience is None:  # deleted
        return False
    if author == reader.id:
        return True
    follows, blocked, in_circle = reader.relations[author]
    if not follows or blocked:
        return False
    match status.audience:
        case "followers":
            return True
        case "mutuals":
            return reader.followed_by[author]
        case "circle":
            return in_circle


def statuses_by_id(ids: Sequence[ObjectId]) -> Find:
    return Find("statuses", {"_id": {"$in": ids}}, FIELDS, len(ids))


async def visible_statuses(
    db: Database,
    reader: ObjectId,
    entries: Sequence[Entry],
    known: Known | None = None,
    rows: dict[ObjectId, StatusRow] | None = None,
    enough: int | None = None,
) -> list[StatusRow]:
    """The entries' statuses that the reader may see now, in the order of `entries`.

    What is given need not be looked up: what is `known` of the reader, and `rows` by id, which what is looked up is
    added to. Where the first of these make `enough`, the rest is left out. What is looked up is one command where the
    entries know their authors, statuses and edges of the same moment; otherwise the edges come after the statuses.
    """
    rows = {} if rows is None else rows
    view = View(known or Known(reader))
    found = [rows.get(entry.id) for entry in entries]
    if None in found:
        at_hand = found.index(None)
        if enough and at_hand >= enough:
            shown = await _visible(db, view, found[:at_hand])
            if len(shown) >= enough:
                return shown
        missing = [entry.id for entry, row in zip(entries, found, strict=True) if row is None]
        edges = view.lacks({entry.author for entry in entries if entry.author}, set())
        answers = await together(db, statuses=statuses_by_id(missing), **edges)
        if edges:
            view.hear(answers)
        rows.update((document["_id"], StatusRow.of(document)) for document in answers["statuses"])
        found = [rows.get(entry.id) for entry in entries]
    return await _visible(db, view, found)


async def _visible(db: Database, view: View, rows: Sequence[StatusRow | None]) -> list[StatusRow]:
    statuses = [row for row in rows if row]
    while True:
        reader = view.reader()
        try:
            return [status for status in statuses if visible(status, reader)]
        except KeyError:
            mutual = {status.user_id for status in statuses if status.audience == "mutuals"}
            await _look(db, view, {status.user_id for status in statuses}, mutual)


async def audiences(db: Database, reader: ObjectId, author: ObjectId) -> list[Audience]:
    """The audiences through which the reader may see this author's statuses now."""
    view = View(Known(reader))
    await _look(db, view, {author}, {author})
    samples: Sequence[Audience] = get_args(Audience)
    return [audience for audience in samples if visible(StatusRow(author, author, "", audience), view.reader())]


async def _look(db: Database, view: View, authors: set[ObjectId], mutual: set[ObjectId]) -> None:
    if edges := view.lacks(authors, mutual):
        view.hear(await together(db, **edges))
