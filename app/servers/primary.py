"""Making a lone mongod the writable primary of a replica set of one."""

from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from app.servers.commands import REPLICA_SET, address
from app.servers.probe import Answer, NoAnswer, mongodb_client
from app.stack.outage import briefly

NOT_YET_INITIALIZED = 94  # MongoDB's error code
SELECTION_TIMEOUT_MS = 100


def make_primary(at: Path, timeout_s: float) -> Answer:
    """Make the mongod at this socket the writable primary of a set of one. Raises NoAnswer until it is.

    The set knows its member by its address: a new set is initiated, and one that moved is reconfigured (0.1 had a
    port).
    """
    waits = {"serverSelectionTimeoutMS": SELECTION_TIMEOUT_MS, "socketTimeoutMS": int(timeout_s * 10_000)}
    try:
        with mongodb_client(address("mongodb", at), timeout_s, **waits) as client:
            hello = client.admin.command("hello")
            if not hello.get("isWritablePrimary"):
                _set_member(client, str(at))
                raise NoAnswer("it is not the primary yet")
            status = client.admin.command("serverStatus", metrics=0, wiredTiger=0, locks=0)
            return Answer(str(status["version"]), int(status["pid"]))
    except PyMongoError as error:
        raise NoAnswer(briefly(error)) from None


def _set_member(client: MongoClient[dict[str, Any]], host: str) -> None:
    try:
        config = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [{"_id": 0, "host": host}]})
        return
    if [member["host"] for member in config["members"]] != [host]:
        config["members"] = [config["members"][0] | {"host": host}]
        config["version"] += 1
        client.admin.command("replSetReconfig", config, force=True)
