"""Handles and names as one process remembers them: all of one version, which every change of a name raises.

A changed name has its version beside it (`User.renamed`), so an index finds who has been renamed since. Whoever shows
a name looks at the version first, or has just looked at it beside something else.
"""

from collections.abc import Collection, Sequence
from typing import Any

from bson import ObjectId

from app.edges import NAMES, version_in, version_of
from app.models import Person
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, Rows, together

REMEMBERED = 50_000
RENAMED_AT_ONCE = 200
FIELDS = ("_id", "handle", "name", "deleted")


class Names:
    """The handles and names that one process remembers."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._people: dict[ObjectId, Person] = {}  # remembered
        self._version: int | None = None  # None: nothing is remembered

    async def of(self, ids: Collection[ObjectId], version: int | None = None) -> dict[ObjectId, Person]:
        """Return those of these people who exist, by id, as of some moment after the call, or after `version` was
        looked up.
        """
        while ids:
            known, since = {id: self._people[id] for id in ids if id in self._people}, self._version
            if len(known) == len(ids) and since is not None and version is not None and version <= since:
                return known
            unknown = [id for id in ids if id not in known]
            answers = await together(self._db, **_finds(since, unknown))
            renamed = answers.get("renamed", [])
            if len(renamed) > RENAMED_AT_ONCE:  # all names are forgotten
                self._people, self._version = {}, None
                continue
            found = _people([*renamed, *answers.get("people", [])])
            known |= {id: person for id, person in found.items() if id in ids}
            self._keep(known, found, since, version_in(answers["version"]))
            return known
        return {}

    def _keep(
        self, asked: dict[ObjectId, Person], found: dict[ObjectId, Person], since: int | None, version: int
    ) -> None:
        """Remember what was found, unless others have looked meanwhile and what is remembered now is not between these
        two versions.
        """
        if self._version is not None and not (since is not None and since <= self._version <= version):
            return
        if len(self._people) > REMEMBERED:
            self._people = {}
        self._people |= asked | {id: person for id, person in found.items() if id in self._people}
        self._version = version


def _finds(since: int | None, unknown: list[ObjectId]) -> dict[str, Find]:
    finds = {"version": version_of(NAMES)}
    if since is not None:
        finds["renamed"] = renamed_since(since)
    if unknown:
        finds["people"] = Find("users", {"_id": {"$in": unknown}}, FIELDS, len(unknown), by="_id")
    return finds


def renamed_since(version: int, people: Sequence[ObjectId] | None = None) -> Find:
    """Return the look-up of all of these people who have been renamed since, in the order of their changes; or of the
    first RENAMED_AT_ONCE of all people, and of one more, which says that there are more.
    """
    query: dict[str, Any] = {"renamed": {"$gt": version}, **({"_id": {"$in": people}} if people is not None else {})}
    n = RENAMED_AT_ONCE + 1 if people is None else len(people)
    return Find("users", query, (*FIELDS, "renamed"), n, [("renamed", 1)])


def _people(users: Rows) -> dict[ObjectId, Person]:
    """Return the people of these rows, by id. A deleted account has its handle in the database, where it keeps others
    from having it.
    """
    return {
        user["_id"]: Person(user["_id"], "" if user.get("deleted") else user["handle"], user["name"]) for user in users
    }
