"""Time, injected, so that tests move it: statuses, edges, accounts, what is owed and what is kept go by it.

The machine is asked for the date by rate limits, RQ, logs, a time in the metrics and names of files only.
"""

import time
from datetime import UTC, datetime

from bson import ObjectId, Timestamp

FIRST_ID = ObjectId(b"\x00" * 12)  # before every status: a floor that covers the whole history
LAST_ID = ObjectId(b"\xff" * 12)  # after every status: a floor that covers nothing

_SLEEP_COUNTS = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux's CLOCK_MONOTONIC stops in sleep


def id_at(moment: datetime) -> ObjectId:
    """Return a new unique id whose timestamp is `moment`. Ids made by one process keep their order inside a second."""
    seconds = int(moment.timestamp())
    return ObjectId(seconds.to_bytes(4, "big") + ObjectId().binary[4:])


def first_id(second: int) -> ObjectId:
    """Return the smallest id of a second since 1970, as `ObjectId.from_datetime` does for a moment."""
    return ObjectId(second.to_bytes(4, "big") + bytes(8))


class Clock:
    """The clock of the machine; tests have others."""

    def now(self) -> datetime:
        """Return the time in UTC, cut to the millisecond that MongoDB keeps."""
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def monotonic(self) -> float:
        """Return seconds that never run backwards; they go on while the process is stopped and while the machine
        sleeps.
        """
        return time.clock_gettime(_SLEEP_COUNTS)

    def awake(self) -> float:
        """Return seconds that never run backwards and stand still while the machine sleeps: Memcached measures its TTLs
        in them.
        """
        return time.monotonic()

    def of_cluster(self, told: Timestamp | None) -> int:
        """Return the second that the clock of MongoDB's cluster shows, which it has just told; a stand-in tells none,
        and goes by this clock.
        """
        return told.time if told else int(self.now().timestamp())

    def new_id(self) -> ObjectId:
        return id_at(self.now())
