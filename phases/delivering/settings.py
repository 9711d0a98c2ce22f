"""The phase settings as a value: what delivers, what is read, which containers there are; and what follows a change."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from app.clock import FIRST_ID, id_at
from phases.keeping.store import Container

UNSETTLED = datetime(9999, 1, 1, tzinfo=UTC)  # the end of what has been switched off, until somebody says when that is
FORGET_AFTER_S = 60  # so long after a container was retired, whatever began in it has ended


@dataclass(frozen=True)
class Settings:
    """One reading of the settings. `leaving`: switched off, still delivered to until then. `forced`: authors of whom
    everything is pulled, or nothing, whatever the rule says.
    """

    version: int
    read: str
    delivering: tuple[str, ...]
    leaving: Mapping[str, datetime]
    containers: tuple[Container, ...]
    forced: Mapping[ObjectId, bool] = field(default_factory=dict)
    read_at_s: float = 0.0  # on the clock's monotonic seconds

    @property
    def epoch(self) -> ObjectId:
        """An id that changes each time anything begins to be kept anew, by whatever clock. An earlier one comes back
        only when all that began since has been switched off and forgotten.
        """
        return max((container.since for container in self.containers), default=FIRST_ID)

    def delivering_at(self, now: datetime) -> tuple[str, ...]:
        """The phases that a status posted now has to be delivered to."""
        return (*self.delivering, *(slug for slug, until in self.leaving.items() if now < until))

    def current(self, kept: str) -> Container | None:
        return next((c for c in self.containers if c.kept == kept and c.until is None), None)

    def in_use(self, now: datetime) -> tuple[Container, ...]:
        """The containers that somebody may still read or write."""
        ended = now - timedelta(seconds=FORGET_AFTER_S)
        return tuple(c for c in self.containers if c.until is None or ended < c.until)

    @property
    def is_settled(self) -> bool:
        """Whether everything that ends or opens says when."""
        ends = (*self.leaving.values(), *(container.until for container in self.containers))
        return UNSETTLED not in ends and all(container.opens for container in self.containers)

    def settled(self, at: datetime) -> "Settings":
        """Return the next settings, in which all that ends or opens does so `at` a moment when nobody acts on earlier
        settings any more.
        """
        containers = (
            replace(c, until=at if c.until == UNSETTLED else c.until, opens=c.opens or at) for c in self.containers
        )
        leaving = {slug: at if until == UNSETTLED else until for slug, until in self.leaving.items()}
        return replace(self, version=self.version + 1, leaving=leaving, containers=tuple(containers))

    def document(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "read": self.read,
            "delivering": list(self.delivering),
            "leaving": dict(self.leaving),
            "containers": [
                {"kept": c.kept, "since": c.since, "nodes": c.nodes, "until": c.until, "opens": c.opens}
                for c in self.containers
            ],
            "forced": {str(author): pulled for author, pulled in self.forced.items()},
        }

    @classmethod
    def of(cls, document: Mapping[str, Any], read_at_s: float) -> "Settings":
        containers = tuple(
            Container(
                kept=c["kept"],
                since=c["since"],
                nodes=tuple(c["nodes"]) if c["nodes"] else None,
                until=c["until"],
                opens=c.get("opens", c["since"].generation_time),  # 0.1 named containers after the moment
            )
            for c in document["containers"]
        )
        delivering = tuple(document["delivering"])
        forced = {ObjectId(author): pulled for author, pulled in document.get("forced", {}).items()}
        return cls(
            document["version"], document["read"], delivering, document["leaving"], containers, forced, read_at_s
        )


@dataclass(frozen=True)
class SettingsChange:
    """What somebody wants changed; None and nothing leave it as it is. `off`, `on`: phases that deliver no longer, or
    again, whatever else delivers by then. `anew`: what begins to be kept anew. `forced`: as in Settings; None for an
    author leaves them to the rule again.
    """

    read: str | None = None
    delivering: Sequence[str] | None = None
    off: Collection[str] = ()
    on: Sequence[str] = ()
    anew: Sequence[str] = ()
    forced: Mapping[ObjectId, bool | None] = field(default_factory=dict)


def delivered_to(delivering: Sequence[str], keeps: Mapping[str, str | None]) -> list[str]:
    """Return what is kept that some of these phases deliver to, as far as `keeps` says what each phase keeps."""
    return list(dict.fromkeys(kept for slug in delivering if (kept := keeps.get(slug))))


def next_settings(
    old: Settings,
    change: SettingsChange,
    keeps: Mapping[str, str | None],
    nodes: Mapping[str, tuple[str, ...] | None],
    now: datetime,
) -> tuple[Settings, list[Container]]:
    """Return the settings after `old`, and the containers that begin with them. Nothing says yet when it ends or opens.

    A container goes on while some phase delivers to it; otherwise it retires, and another one begins. Where none has
    delivered to it by `old` either, another version of the program, which did not know what its phases keep, has
    switched them off. What only another version knows goes on while some phase delivers that only that version knows.
    keeps: what each phase keeps, by slug. nodes: where a new container is, by what is kept.
    """
    wished = old.delivering if change.delivering is None else change.delivering
    delivering = tuple(dict.fromkeys((*(slug for slug in wished if slug not in change.off), *change.on)))
    leaving = {slug: t for slug, t in old.leaving.items() if now < t} | dict.fromkeys(old.delivering, UNSETTLED)
    before, wanted = delivered_to(old.delivering, keeps), delivered_to(delivering, keeps)
    going_on = {kept for kept in wanted if kept in before and kept not in change.anew}
    if not keeps.keys() >= set(delivering):
        going_on |= {container.kept for container in old.containers} - nodes.keys()
    containers = [
        replace(c, until=UNSETTLED) if c.until is None and c.kept not in going_on else c for c in old.in_use(now)
    ]
    there = {container.kept for container in containers if container.until is None}
    later = max([now, *(c.since.generation_time + timedelta(seconds=1) for c in old.containers)])  # clocks differ
    begun = [Container(kept, id_at(later), nodes[kept]) for kept in wanted if kept not in there]
    settings = Settings(
        version=old.version + 1,
        read=change.read or old.read,
        delivering=delivering,
        leaving={slug: t for slug, t in leaving.items() if slug not in delivering},
        containers=(*containers, *begun),
        forced={author: pulled for author, pulled in {**old.forced, **change.forced}.items() if pulled is not None},
    )
    return settings, begun
