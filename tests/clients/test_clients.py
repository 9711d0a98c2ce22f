"""Live streams with clients that others have written: npm's `eventsource` and `ws`."""

import asyncio
import json
import os
import shutil
import subprocess
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from app.live.connection import STOPPED
from app.web import protocol
from tests.live import test_wire

site = test_wire.site
pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

HERE = Path(__file__).parent
INSTALLED = HERE / "node_modules" / ".package-lock.json"
INSTALL_S, PATIENCE_S = 120, 30


@pytest.fixture(scope="session")
def node() -> str:
    """With the packages of the lockfile. A machine without it is skipped, but in CI that is a failure."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        if os.environ.get("CI") == "true":
            pytest.fail("node and npm are not installed")
        pytest.skip("node and npm are not installed")
    if not INSTALLED.exists() or INSTALLED.stat().st_mtime < (HERE / "package-lock.json").stat().st_mtime:
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(command, cwd=HERE, check=True, capture_output=True, timeout=INSTALL_S)
    return found


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "PING_S", 0.1)


class Clients:
    """What they tell, each its own."""

    def __init__(self, lines: asyncio.StreamReader) -> None:
        self._lines = lines
        self._told: dict[str, list[Any]] = {"eventsource": [], "ws": []}

    async def next(self, client: str, event: str) -> Any:
        """Whatever else it is told before that fails, pings aside."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                while self._told[client]:
                    told = self._told[client].pop(0)
                    if told["event"] == event:
                        return told
                    assert told["event"] == "ping", told
                said = json.loads(await self._lines.readline())
                self._told[said["client"]].append(said)


async def test_clients_of_others_are_told_and_come_back(node: str, quick_pings: None, site: test_wire.Site) -> None:
    ann, bob = await site.person("ann"), await site.person("bob")
    await site.http.put("/follows/bob", headers=ann)
    token, ticket = ann["Authorization"].split()[1], await site.ticket(ann)
    arguments = (str(HERE / "client.mjs"), str(site.http.base_url).rstrip("/"), token, ticket)
    process = await asyncio.create_subprocess_exec(node, *arguments, stdin=PIPE, stdout=PIPE)
    assert process.stdin
    assert process.stdout
    clients, both = Clients(process.stdout), ("eventsource", "ws")
    try:
        for client in both:
            assert (await clients.next(client, "ready"))["data"] == {"unread": 0, "messages_unread": 0}
        first = (await site.http.post("/statuses", json={"text": "first"}, headers=bob)).json()
        told = [await clients.next(client, "status") for client in both]
        assert [each["data"] for each in told] == [first, first]
        assert told[0]["id"] == told[1]["id"]
        await clients.next("ws", "ping")
        (watcher,) = site.app.state.services.hub.watchers
        for connection in list(watcher.connections):
            connection.close(STOPPED)
        closed = await clients.next("ws", "close")
        assert (closed["code"], closed["extensions"]) == (STOPPED, "")
        second = (await site.http.post("/statuses", json={"text": "second"}, headers=bob)).json()
        for client in both:
            assert (await clients.next(client, "ready"))["id"] == told[0]["id"], "it has named the last one that it got"
            assert (await clients.next(client, "status"))["data"] == second
        await site.http.delete(f"/statuses/{first['id']}", headers=bob)
        for client in both:
            assert (await clients.next(client, "status_gone"))["data"] == {"id": first["id"]}
    finally:
        process.stdin.close()
        await process.wait()
