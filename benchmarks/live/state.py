"""The state that a client shows: fetched once, and kept up to date by events. It shares no code with their sender."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

PAGE = 20  # statuses and notifications of a first page
TELL_UNREAD = ("ready", "unread", "notification", "notification_gone")  # a conversation's `unread` is another one

Json = dict[str, Any]


@dataclass
class State:
    """The state of a client. `statuses` by id, `notes` (notifications) by seq: the newest PAGE of each."""

    statuses: dict[str, Json]
    notes: dict[int, Json]
    unread: int

    @classmethod
    def fetched(cls, timeline: Json, notifications: Json) -> Self:
        """Make the state from the answers of `GET /timeline` and `GET /notifications`."""
        notes = {each["seq"]: _note(each) for each in notifications["notifications"]}
        return cls({each["id"]: each for each in timeline["statuses"]}, notes, notifications["unread"])

    def apply(self, event: str, data: Json) -> None:
        """Apply an event. Applying one twice changes nothing."""
        if event in TELL_UNREAD:
            self.unread = data["unread"]
        match event:
            case "status":
                self.statuses = _newest(self.statuses | {data["id"]: data})
            case "status_gone":
                self.statuses.pop(data["id"], None)
            case "likes" if data["id"] in self.statuses:
                self.statuses[data["id"]] |= data
            case "person":
                for each in self.statuses.values():
                    if each["author"]["handle"] == data["handle"]:
                        each["author"] = each["author"] | {"name": data["name"]}
            case "notification":
                self.notes = _newest(self.notes | {data["seq"]: _note(data)})
            case "notification_gone":
                self.notes.pop(data["seq"], None)

    def differences(self, now: "State") -> Iterator[str]:
        """Yield the differences from this state to what is fetched now."""
        both: tuple[tuple[str, dict[Any, Json], dict[Any, Json]], ...] = (
            ("status", self.statuses, now.statuses),
            ("notification", self.notes, now.notes),
        )
        for what, had, has in both:
            for id in had.keys() | has.keys():
                if had.get(id) != has.get(id):
                    yield f"{what} {id} is {had.get(id)} and should be {has.get(id)}"
        if self.unread != now.unread:
            yield f"unread is {self.unread} and should be {now.unread}"


def _note(given: Json) -> Json:
    """Return the parts of a notification that do not change with its status."""
    about = given["status"]["id"] if given["status"] else None
    return {"kind": given["kind"], "from": given["from"]["id"], "status": about}


def _newest(items: dict[Any, Json]) -> dict[Any, Json]:
    return {key: items[key] for key in sorted(items, reverse=True)[:PAGE]}
