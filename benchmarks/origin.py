"""The origin of a report, with which each one begins: where, when and on what it was measured."""

import asyncio
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from pymongo.errors import OperationFailure

from app.stack import Database, Stack
from benchmarks.report import Machine, Origin
from benchmarks.rig import Rig
from benchmarks.verdict import counted

PACKAGES = (
    "feedlab", "motor", "pymongo", "beanie", "redis", "rq", "pymemcache", "starlette", "uvicorn", "hdrhistogram",
)  # fmt: skip
SETTINGS = {"cap", "chunk", "pending_scan", "timeline_ttl_s", "comeback", "grace_s"}


async def origin(rig: Rig) -> Origin:
    return Origin(
        meaningless=rig.meaningless,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_commit(),
        machine=Machine(
            processor=_processor(),
            cores=psutil.cpu_count(),
            memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
        ),
        servers=await rig.stack.check(),
        topology={} if rig.meaningless else await topology(rig.stack),
        packages={name: version(name) for name in PACKAGES},
        config=rig.stack.config.model_dump(include=SETTINGS),
        write_concern="majority" if not rig.meaningless else "none",
    )


async def topology(stack: Stack) -> dict[str, str]:
    """Return what kind each server is and how many of it there are, without their names."""
    redis: Any = await asyncio.to_thread(stack.queue.connection.info)
    replicas = int(redis.get("connected_slaves", 0))
    return {
        "mongodb": await mongodb_topology(stack.db),
        "redis": f"{redis.get('redis_mode', 'standalone')}, {counted(replicas, 'replica')}",
        "memcached": counted(len(stack.addresses.memcached or ()), "node"),
    }


async def mongodb_topology(database: Database) -> str:
    hello = await database.command("hello")
    if hello.get("msg") == "isdbgrid":
        try:
            shards = await database.client.admin.command("listShards")
        except OperationFailure:  # the account may not ask
            return "sharded"
        return f"sharded, {counted(len(shards['shards']), 'shard')}"
    if "setName" not in hello:
        return "standalone"
    members = sum(len(hello.get(kind, ())) for kind in ("hosts", "passives", "arbiters"))
    return f"replica set, {counted(members, 'member')}"


def _commit() -> str | None:
    """Return the commit of this checkout; None where it is none, or git is missing."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    name = re.search(
        r"^model name\s*: *(.+)$", described.read_text(encoding="utf-8") if described.exists() else "", re.MULTILINE
    )
    return name[1] if name else platform.processor() or platform.machine()
