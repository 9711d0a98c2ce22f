"""A real nginx in front, with the configuration that docs/proxy.md shows."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from app.config import Config
from app.serve import _uvicorn
from app.stack import connected
from app.web import create_app, protocol
from phases.timelines import Timelines
from tests.conftest import free_port
from tests.site import PASSWORD, Browser
from tests.world import STAND_INS

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

DOCUMENT = Path(__file__).parents[1] / "docs" / "proxy.md"
NAME = "feed.example"
PATIENCE_S = 30


@pytest.fixture(params=["as documented", "with another Host"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an nginx before a Feedlab on stand-ins."""
    program = shutil.which("nginx")
    if program is None:
        assert os.environ.get("CI") != "true", "nginx is missing"
        pytest.skip("needs nginx")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server: Future[uvicorn.Server] = Future()
        thread = threading.Thread(target=lambda: asyncio.run(_serve(listening, server)))
        thread.start()
        port = free_port()
        described = _described(port, listening.getsockname()[1])
        if request.param != "as documented":
            described = described.replace("proxy_set_header Host $http_host;", "")
        nginx = subprocess.Popen([program, "-p", tmp_path, "-e", "stderr", "-c", _written(tmp_path, described)])
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            nginx.terminate()
            nginx.wait(PATIENCE_S)
            server.result(PATIENCE_S).should_exit = True
            thread.join(PATIENCE_S)


def _described(port: int, upstream: int) -> str:
    """The server of the document, without TLS and on ports that are free."""
    (found,) = re.findall(r"```nginx\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    found = found.replace("listen 443 ssl", f"listen 127.0.0.1:{port}").replace(":8000", f":{upstream}")
    return re.sub(r"ssl_certificate.*\n", "", found)


def _written(folder: Path, server: str) -> Path:
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(f"daemon off; pid {folder}/pid; events {{}} http {{ access_log off; {paths} {server} }}")
    return file


BEHIND = {"FEEDLAB_ALLOWED_HOSTS": NAME, "FEEDLAB_TRUSTED_PROXIES": "127.0.0.1"}


async def _serve(
    listening: socket.socket, started: "Future[uvicorn.Server]", settings: Mapping[str, str] = BEHIND
) -> None:
    config = Config.from_environment(settings, sign_ups_per_minute=1)
    async with connected(STAND_INS, config) as stack:
        server = _uvicorn(create_app(stack, await Timelines.open(stack)), config)
        started.set_result(server)
        await server.serve(sockets=[listening])


@asynccontextmanager
async def behind(proxy: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the proxy, once both listen."""
    transport = httpx.AsyncHTTPTransport(retries=20)
    async with httpx.AsyncClient(transport=transport, base_url=proxy, headers={"host": NAME}, timeout=30) as client:
        for _ in range(100):
            if (await client.get("/healthz")).status_code == 200:
                break
            await asyncio.sleep(0.1)
        yield client


async def test_strangers_see_no_figures_behind_it_and_browsers_stay_with_tls(proxy: str) -> None:
    async with behind(proxy) as client:
        for path in ("/metrics", "/readyz", "/%6detrics", "/metrics%0a"):
            answer = await client.get(path)
            assert (answer.status_code, "nginx" in answer.text) == (404, True), f"Feedlab was asked for {path}"
        for path in ("/metrics", "/healthz", "/nowhere"):
            assert (await client.get(path)).headers["strict-transport-security"] == "max-age=31536000", path


async def test_forms_streams_and_limits_work_behind_it(proxy: str) -> None:
    async with behind(proxy) as client:
        browser = Browser(client)
        client.headers.update({"origin": f"https://{NAME}", "x-forwarded-for": "203.0.113.9"})
        await browser.sign_up("ann")
        await browser.post("hello from behind")
        assert "hello from behind" in await browser.open("/")
        async with client.stream("GET", "/live") as live:
            assert (await anext(live.aiter_text())).startswith("retry: ")
        client.headers["x-forwarded-for"] = "203.0.113.10"
        client.cookies.clear()
        asked = {"handle": "bob", "password": PASSWORD}
        assert (await client.post("/api/v1/users", json=asked)).status_code == 429, "nobody says where they are"
        client.headers["origin"] = "https://evil.example"
        await browser.open("/sign-up")
        await browser.submit("/sign-up", handle="bob", name="", password=PASSWORD)
        assert browser.status == 403


def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(("proxies", "closed"), [("", True), ("192.0.2.1,127.0.0.0/8", False)])
async def test_a_trusted_proxy_alone_has_more_than_the_share_of_an_address(
    monkeypatch: pytest.MonkeyPatch, proxies: str, closed: bool
) -> None:
    monkeypatch.setattr(protocol, "most_connections", lambda: 4)
    monkeypatch.setattr(protocol, "HEAD_S", 600)
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as exits:
        started: Future[uvicorn.Server] = Future()
        serving = asyncio.create_task(_serve(listening, started, {"FEEDLAB_TRUSTED_PROXIES": proxies}))
        server = await asyncio.wrap_future(started)
        place = listening.getsockname()
        first, *_ = [exits.enter_context(socket.create_connection(place, PATIENCE_S)) for _ in range(3)]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{place[1]}", timeout=PATIENCE_S) as client:
            assert (await client.get("/healthz")).status_code == 200
        assert _is_closed(first) is closed
        server.should_exit = True
        exits.close()
        await serving


async def _sign_ups(listening: socket.socket, settings: Mapping[str, str], host: str = "127.0.0.1") -> list[int]:
    """The answers to two who are said to come from two addresses, of which each may sign up once, by a proxy here."""
    started: Future[uvicorn.Server] = Future()
    serving = asyncio.create_task(_serve(listening, started, settings))
    server = await asyncio.wrap_future(started)
    found = []
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/api/v1/users"
    async with httpx.AsyncClient(timeout=PATIENCE_S, headers={"host": host}) as client:
        for handle, said in (("ann", "203.0.113.9"), ("bob", "203.0.113.10")):
            asked = {"handle": handle, "password": PASSWORD}
            found.append((await client.post(url, json=asked, headers={"x-forwarded-for": said})).status_code)
    server.should_exit = True
    await serving
    return found


async def test_nobody_is_believed_where_they_come_from() -> None:
    """Unless their address is that of a trusted proxy."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert await _sign_ups(listening, {}) == [201, 429]


@pytest.mark.parametrize(
    ("proxies", "believed"),
    [
        ("192.0.2.1, 127.0.0.1 ,", True),
        ("127.0.0.9/8", True),
        ("::1,*", True),
        ("192.0.2.1,::ffff:0:0/127", False),
    ],
)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_trusted_proxy_is_believed_however_it_is_written_and_comes(
    family: socket.AddressFamily, proxies: str, believed: bool
) -> None:
    """On a socket for both it comes from ::ffff:127.0.0.1."""
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    both = family == socket.AF_INET6
    with socket.create_server(("::" if both else "127.0.0.1", 0), family=family, dualstack_ipv6=both) as listening:
        settings = {"FEEDLAB_TRUSTED_PROXIES": proxies, "FEEDLAB_ALLOWED_HOSTS": "other.example, Feed.Example."}
        assert await _sign_ups(listening, settings, NAME) == [201, 201 if believed else 429]
