"""Chromium's own EventSource and WebSocket as clients of live streams, used by what the API says alone."""

import httpx
import pytest
from playwright.sync_api import Page

from tests.browser.visitors import PASSWORD, PATIENCE_S, Visitors

pytestmark = pytest.mark.browser

LISTEN = """([sse, ws, after]) => {
  window.heard = {sse: [], ws: []};
  window.failed = [];
  const source = window.source = new EventSource(`/api/v1/live?ticket=${sse}&after=${after}`);
  for (const event of ["ready", "status", "reset"])
    source.addEventListener(event, told => heard.sse.push([told.lastEventId, event, JSON.parse(told.data)]));
  source.onerror = () => failed.push("EventSource");
  const socket = window.socket = new WebSocket(
    `${location.origin.replace("http", "ws")}/api/v1/live/socket?ticket=${ws}&after=${after}`);
  socket.onmessage = told => {
    const {id, event, data} = JSON.parse(told.data);
    heard.ws.push([id, event, data]);
  };
  socket.onclose = told => failed.push(`WebSocket ${told.code}`);
}"""


def heard(page: Page, count: int) -> list[tuple[str, str, object]]:
    """What both have heard, which is the same."""
    page.wait_for_function("count => heard.sse.length >= count && heard.ws.length >= count", arg=count)
    both = page.evaluate("heard")
    assert both["sse"] == both["ws"]
    assert page.evaluate("failed") == []
    return [tuple(each) for each in both["sse"]]


def test_both_of_them_hear_and_come_back(manual_site: str, visitor: Visitors) -> None:
    page = visitor("own_streams", 1280, "light").page
    page.goto(f"{manual_site}/sign-in")
    with httpx.Client(base_url=f"{manual_site}/api/v1", timeout=PATIENCE_S, trust_env=False) as http:

        def person(handle: str) -> dict[str, str]:
            credentials = {"handle": handle, "password": PASSWORD}
            http.post("/users", json=credentials).raise_for_status()
            token = http.post("/tokens", json=credentials).raise_for_status().json()["token"]
            return {"Authorization": f"Bearer {token}"}

        def listen(after: str = "") -> None:
            tickets = [http.post("/live/tickets", headers=ann).raise_for_status().json()["ticket"] for _ in range(2)]
            page.evaluate(LISTEN, [*tickets, after])

        def post(text: str) -> object:
            return http.post("/statuses", json={"text": text}, headers=bob).raise_for_status().json()

        ann, bob = person("own_ann"), person("own_bob")
        http.put("/follows/own_bob", headers=ann).raise_for_status()
        listen()
        ((_, name, data),) = heard(page, 1)
        assert (name, data) == ("ready", {"unread": 0, "messages_unread": 0})
        first = post("first")
        last, *told = heard(page, 2)[1]
        assert told == ["status", first]
        page.evaluate("source.close(), socket.onclose = null, socket.close()")
        missed = [post(text) for text in ("second", "third")]
        listen(last)
        again = heard(page, 3)
        assert again[0][:2] == (last, "ready"), "a stream that is resumed begins with the id that was named"
        assert [each[1:] for each in again[1:]] == [("status", status) for status in missed]
        fourth = post("fourth")
        assert heard(page, 4)[3][1:] == ("status", fourth)
        page.evaluate("source.close(), socket.onclose = null, socket.close()")
