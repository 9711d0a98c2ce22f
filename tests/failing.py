"""MongoDBs that fail when and how a test says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from pymongo import MongoClient

from app.servers import replica
from app.servers.commands import mongod
from app.servers.replica import ReplicaSet, replica_set


def _mongod(*args: Any, **options: Any) -> list[str]:
    return [*mongod(*args, **options), "--setParameter", "enableTestCommands=1"]


@contextmanager
def replica_set_with_failpoints(members: int) -> Iterator[tuple[ReplicaSet, Path]]:
    """Yield it and its directory."""
    with (
        TemporaryDirectory() as short,
        patch.multiple(replica, MEMBERS=members, mongod=_mongod),
        replica_set(Path(short)) as found,
    ):
        yield found, Path(short)


@contextmanager
def failing(url: str, *commands: str, times: int | None = None, **how: Any) -> Iterator[None]:
    """Have these commands fail so many times, or always, in the words of MongoDB's failpoint `failCommand`."""
    with MongoClient[Any](url) as client:

        def tell(mode: Any) -> None:
            data = {"failCommands": list(commands), **how}
            client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})

        tell({"times": times} if times else "alwaysOn")
        try:
            yield
        finally:
            tell("off")
