"""When tests take place: on the day that they run, by a clock that they move."""

from datetime import UTC, datetime, timedelta

from bson import Timestamp

from app.clock import Clock

# mongomock and mongod drop expired documents by the machine's date, so a date in the code would be the past one day.
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
# Past by any clock, as NOON is not in the morning. No TTL index looks at a field that has it.
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class ManualClock(Clock):
    """A clock that stands still until it is told otherwise."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._elapsed = self._asleep = 0.0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    def of_cluster(self, told: Timestamp | None) -> int:
        return int(self.now().timestamp())  # whatever the machine's date is

    def awake(self) -> float:
        return self._elapsed - self._asleep

    def advance(self, seconds: float) -> None:
        assert seconds >= 0
        self._elapsed += seconds

    def sleep(self, seconds: float) -> None:
        """The machine sleeps, and everything on it."""
        self.advance(seconds)
        self._asleep += seconds
