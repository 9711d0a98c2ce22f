"""Stand-ins for the processes of `feedlab serve`, run as `python serving.py ROLE …` by tests/test_servers.py."""

import argparse
import os
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest.mock import patch

from app.servers.children import end_with_parent

ME = (sys.executable, str(Path(__file__).absolute()))


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def web(fd: int) -> None:
    end_with_parent()
    server = HTTPServer(("127.0.0.1", 0), Answer, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=fd)
    server.server_activate()
    server.serve_forever()


def late(fd: int) -> None:
    """Another listens first on the port that both have."""
    with socket.socket(fileno=os.dup(fd)) as bound:
        address = bound.getsockname()
    while socket.socket().connect_ex(address):
        time.sleep(0.01)
    web(fd)


def worker() -> None:
    end_with_parent()
    signal.pause()


def broken() -> None:
    sys.exit("the engine is broken")


async def nobody_to_ask(*_: object) -> None: ...


def serve(given: argparse.Namespace) -> None:
    from app import serve
    from app.config import Config

    plan = serve.Plan(
        given.data,
        port=given.port,
        workers=given.workers,
        small=True,
        web_command=(*ME, given.web),
        worker_command=(*ME, "worker"),
    )
    with patch.object(serve, "_migrated", nobody_to_ask):
        sys.exit(serve.serve(plan, Config.from_environment()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("--fd", type=int, default=0)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--web", default="web")
    given = parser.parse_args()
    match given.role:
        case "web":
            web(given.fd)
        case "late":
            late(given.fd)
        case "worker":
            worker()
        case "broken":
            broken()
        case "serve":
            serve(given)
