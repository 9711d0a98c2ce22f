"""What is kept for whom, looked at from outside: nothing is renewed, marked or built by looking."""

from bson import ObjectId

from app.stack import MemcachedDown, Stack
from phases.entries import entry_key
from phases.lists import PLACEHOLDER, Value, key
from phases.switch import Settings, StoreName, entries_name, floors_name


async def holds(stack: Stack, settings: Settings, store: StoreName, reader: ObjectId, status: ObjectId) -> bool | None:
    """Whether the reader's kept timeline has the status; None where nothing is kept for this reader."""
    container = settings.current(store)
    if container is None:
        return None
    if store == "entries":
        if await stack.db[entries_name(container.since)].find_one({"_id": entry_key(reader, status)}, {"_id": 1}):
            return True
        floor = await stack.db[floors_name(container.since)].find_one({"_id": reader}, {"floor": 1})
        return False if floor and "floor" in floor else None
    try:
        found = await stack.memcached.gets(key(container, reader))
    except MemcachedDown:
        return None
    if found is None:
        return None
    value = Value.unpacked(found[0])
    if status.binary in value.ids:
        return True
    return None if value.kind == PLACEHOLDER else False
