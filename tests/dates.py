"""When tests take place: on the day that they run."""

from datetime import UTC, datetime

# mongomock and mongod drop expired documents by the machine's date, so a date in the code would be the past one day.
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
