"""The people of these tests look at a page when the whole of it is there."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser.visitors import Visitors

pytestmark = pytest.mark.browser
LINK = b"<!doctype html><html lang=en><link rel=icon href='data:,'><nav aria-label=Main><a href='/'>Timeline</a></nav>"
FORM = b"<summary hidden>Write a status</summary><label>What are you doing?<textarea></textarea></label>"


@pytest.fixture
def in_halves() -> Iterator[tuple[str, threading.Event]]:
    """The address of a page whose second half, the form, comes when the event is set."""
    rest = threading.Event()

    class Halves(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(LINK)
            rest.wait()
            self.wfile.write(FORM)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Halves) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/", rest
        rest.set()
        server.shutdown()
        serving.join()


def test_a_form_that_comes_late_is_waited_for(in_halves: tuple[str, threading.Event], visitor: Visitors) -> None:
    address, rest = in_halves
    ann = visitor("waits", 1280, "light")
    ann.page.goto(address, wait_until="commit")
    later = threading.Timer(0.5, rest.set)
    later.start()
    ann.composer().fill("whole")
    later.join()
