"""Look at everything, and keep what the reader may see."""

from collections.abc import Iterable

from app.access import on_home
from app.edges import Reader
from app.models import StatusRow


def home_timeline(statuses: Iterable[StatusRow], reader: Reader) -> list[StatusRow]:
    newest_first = sorted(statuses, key=lambda status: status.id, reverse=True)
    return [status for status in newest_first if on_home(status, reader)]
