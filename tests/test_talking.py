"""Conversations as somebody with a browser has them: links, forms and cookies, no JavaScript."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from html import unescape
from typing import Any

import httpx
import pytest

from app.inbox.pictures import LARGEST
from app.web import conversations
from app.web.session import SESSION
from tests.contract.test_pictures import WHERE, drawn, told_all
from tests.site import PASSWORD, Browser, Site, opened

pytestmark = pytest.mark.anyio


def words(html: str, pattern: str) -> list[str]:
    """What somebody reads of each part."""
    return [" ".join(unescape(re.sub("<.*?>", " ", part)).split()) for part in re.findall(pattern, html, re.DOTALL)]


def said(html: str) -> list[str]:
    """Days and messages, oldest first; ticks as a screen reader says them."""
    heard = re.sub(r'<details.*?</details>|<span aria-hidden="true">.*?</span>', "", html, flags=re.DOTALL)
    return words(heard, r'<li class="(?:day|message)[^>]*>(.*?)</li>')


def badge(html: str) -> str:
    (found,) = words(
        re.sub("<svg.*?</svg>", "", html, flags=re.DOTALL), r'<a class="bell"[^>]* href="/conversations".*?</a>'
    )
    return found.removeprefix("Messages").removeprefix(", unread: ").strip()


async def with_(browser: Browser, handle: str) -> str:
    """Open the conversation from a person's page; its address."""
    await browser.act(handle, "conversation")
    assert browser.status == 200, browser.html
    return browser.answer.url.path


async def say(browser: Browser, address: str, text: str) -> str:
    await browser.open(address)
    return await browser.submit(f"{address}/messages", text=text)


async def test_two_people_talk(site: Site) -> None:
    ann, ben = await site.browser().sign_up("ann", "Ann A."), await site.browser().sign_up("ben", "Ben B.")
    here = await with_(ann, "ben")
    assert "Nothing said yet" in ann.html
    assert "No messages yet" in await ben.open("/conversations")
    html = await say(ann, here, "hello <b>Ben</b>")
    assert said(html) == ["Today", "hello <b>Ben</b> now Sent"]
    assert (badge(html), badge(await ben.open("/people"))) == ("", "1")
    (listed,) = words(await ben.open("/conversations"), '<a class="person talk.*?</a>')
    assert listed == "A Ann A. hello <b>Ben</b> now 1 unread"
    await ben.client.head(here)
    await ben.client.get(here, headers={"Sec-Purpose": "prefetch"})
    assert said(await ann.open(here)) == ["Today", "hello <b>Ben</b> now Sent"], "nobody has looked at it"
    arrived = {**ben.form("/sign-out").fields, "delivered": "1"}
    assert (await ben.client.post(f"{here}/receipt", data=arrived)).status_code == 204
    assert (await ben.client.post(f"{here}/receipt", data={"delivered": "1"})).status_code == 403
    assert said(await ann.open(here)) == ["Today", "hello <b>Ben</b> now Delivered"]
    html = await ben.open(here)
    assert said(html) == ["Today", "hello <b>Ben</b> now"]
    assert badge(html) == ""
    site.clock.advance(24 * 3_600)
    html = await say(ben, here, "hello Ann")
    assert said(await ann.open(here)) == ["Yesterday", "hello <b>Ben</b> 1 d Read", "Today", "hello Ann now"]
    await ann.open(here)
    await ann.submit(f"{here}/messages/1/delete")
    assert "This message was deleted." in said(await ben.open(here))[1]
    await ben.submit(f"{here}/silence")
    await say(ann, here, "are you there?")
    assert badge(await ben.open("/people")) == ""
    assert "1 unread silenced" in words(await ben.open("/conversations"), '<a class="person talk.*?</a>')[0]


async def test_a_form_sent_twice_is_one_message_and_what_is_refused_is_kept(site: Site) -> None:
    ann, ben = await site.browser().sign_up("ann"), await site.browser().sign_up("ben")
    here = await with_(ann, "ben")
    form = ann.form(f"{here}/messages").fields | {"text": "once\r\nonly"}
    for _ in range(2):
        await ann.client.post(f"{here}/messages", data=form)
    await ann.client.post(f"{here}/messages", data=form | {"text": "another"})
    assert said(await ann.open(here)) == ["Today", "once only now Sent", "another now Sent"]
    html = await say(ann, here, "x" * 2_001)
    assert (ann.status, ann.form(f"{here}/messages").fields["text"]) == (422, "x" * 2_001)
    await ann.open(here)
    form = ann.form(f"{here}/messages").fields | {"text": "too late"}
    await ben.act("ann", "block")
    ann.answer = await ann.client.post(f"{here}/messages", data=form)
    assert ann.status == 403
    assert "nothing more can be said here" in ann.html
    assert said(await ben.open(here)) == ["Today", "once only now", "another now"]
    assert f'action="{here}/messages"' not in ben.html
    forged = await ann.client.post(f"{here}/messages", data={"text": "forged"})
    assert forged.status_code == 403
    for address in ("/conversations/x", "/conversations/" + "0" * 24, f"{here}?before=x", "/conversations?before=x"):
        await ann.open(address)
        assert ann.status == 404, address
    assert html


async def test_a_browsers_outbox_is_answered_as_a_program_and_has_read_nothing(site: Site) -> None:
    ann, ben = await site.browser().sign_up("ann"), await site.browser().sign_up("ben")
    here = await with_(ann, "ben")
    await say(ben, here, "have you seen this?")

    async def sent(text: str, to: str = here) -> httpx.Response:
        fields = {"by": "outbox", "once": "once-and-no-more", "text": text}
        return await ann.client.post(f"{to}/messages", data=ann.form("/sign-out").fields | fields)

    for _ in range(2):
        answer = await sent("from the outbox")
        assert (answer.status_code, answer.content) == (204, b"")
    unknown = "/conversations/" + "0" * 24
    for status, refused in ((422, await sent("x" * 2_001)), (404, await sent("to nobody", unknown))):
        assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json")
    await ben.act("ann", "block")
    refused = await sent("too late")
    assert (refused.status_code, refused.json()["detail"]) == (403, "One of you blocks the other.")
    assert said(await ben.open(here)) == ["Today", "have you seen this? now Sent", "from the outbox now"]


@pytest.mark.parametrize("who", ["ann", "cat"])
async def test_a_message_outlives_the_session_in_which_it_was_typed(site: Site, who: str) -> None:
    ann, ben = await site.browser().sign_up("ann"), await site.browser().sign_up("ben")
    await site.browser().sign_up("cat")
    here = await with_(ann, "ben")
    await site.app.state.services.accounts.sign_out(ann.client.cookies[SESSION])
    html = await ann.submit(f"{here}/messages", text="long <thought>\r\nin two lines")
    assert (ann.status, words(html, '<p class="notice.*?</p>')[0][:24]) == (401, "You have been signed out")
    await ann.submit("/sign-in", handle=who, password="wrong horse")
    html = await ann.submit("/sign-in", handle=who, password=PASSWORD)
    if who == "cat":
        assert (ann.status, "thought" in html) == (404, False), "it is ann's, and for ben alone"
        assert badge(await ann.open("/people")) == ""
        return
    assert ann.form(f"{here}/messages").fields["text"] == "long <thought>\nin two lines"
    assert said(html) == [], "it is sent by whoever presses the button"
    await ann.submit(f"{here}/messages")
    assert said(await ben.open(here)) == ["Today", "long <thought> in two lines now"]


async def test_another_site_puts_no_message_into_anybodys_mouth(site: Site) -> None:
    ann, _ = await site.browser().sign_up("ann"), await site.browser().sign_up("ben")
    here, elsewhere = await with_(ann, "ben"), {"origin": "https://evil.test"}
    forged = await site.browser().client.post(f"{here}/messages", data={"text": "forged"}, headers=elsewhere)
    assert (forged.status_code, "forged" in forged.text) == (403, False)


async def test_older_messages_and_conversations_are_on_further_pages(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "MESSAGES_A_PAGE", 2)
    monkeypatch.setattr(conversations, "CONVERSATIONS_A_PAGE", 1)
    ann = await site.browser().sign_up("ann")
    for name in ("ben", "cat"):
        await site.browser().sign_up(name, name.title())
    await say(ann, await with_(ann, "ben"), "hello Ben")
    site.clock.advance(timedelta(days=9).total_seconds())
    here = await with_(ann, "cat")
    for n in range(5):
        await say(ann, here, f"number {n}")
    assert said(await ann.open(here)) == ["Today", "number 3 now Sent", "number 4 now Sent"]
    (older,) = re.findall(rf'href="({re.escape(here)}\?before=\d+)"', ann.html)
    assert said(await ann.open(older)) == ["Today", "number 1 now Sent", "number 2 now Sent"]
    listed = '<a class="person talk.*?</a>'
    assert words(await ann.open("/conversations"), listed) == ["C Cat Sent number 4 now".replace("Sent", "✓ Sent")]
    (older,) = re.findall(r'href="(/conversations\?before=[0-9a-f]+)"', ann.html)
    assert words(await ann.open(older), listed)[0].startswith("B Ben ✓ Sent hello Ben")


async def picture(browser: Browser, here: str, data: bytes, type: str = "image/jpeg", **fields: Any) -> httpx.Response:
    form = browser.form(f"{here}/picture").fields | fields
    form.pop("picture")
    browser.answer = await browser.client.post(
        f"{here}/picture", data=form, files={"picture": ("holiday.jpg", data, type)}, follow_redirects=True
    )
    return browser.answer


async def test_a_form_sends_only_so_many_pictures() -> None:
    async with opened(pictures_per_hour=1) as site:
        ann, _ = await site.browser().sign_up("ann"), await site.browser().sign_up("ben")
        here = await with_(ann, "ben")
        for status in (200, 429):
            await picture(ann, here, told_all("image/jpeg"))
            assert ann.status == status, ann.html
        assert "Too many pictures" in ann.html


async def test_a_form_with_a_picture_has_a_place_before_it_is_read(site: Site) -> None:
    site.app.state.services.pictures.arriving.each = LARGEST
    ann, _ = await site.browser().sign_up("ann"), await site.browser().sign_up("ben")
    here, begun, may_end = await with_(ann, "ben"), asyncio.Event(), asyncio.Event()
    typed = {name: value for name, value in ann.form(f"{here}/picture").fields.items() if name != "picture"}
    whole = ann.client.build_request(
        "POST", f"{here}/picture", data=typed, files={"picture": ("holiday.png", drawn("image/png"), "image/png")}
    )
    body = await whole.aread()

    async def slow() -> AsyncIterator[bytes]:
        yield body[:-9]
        begun.set()
        await may_end.wait()
        yield body[-9:]

    headers = {"Content-Type": whole.headers["content-type"]}
    sending = asyncio.create_task(ann.client.post(f"{here}/picture", content=slow(), headers=headers))
    await asyncio.wait_for(begun.wait(), 30)
    refused = await ann.client.post(f"{here}/picture", content=body, headers=headers)
    assert (refused.status_code, "Too many pictures arrive" in refused.text) == (429, True)
    may_end.set()
    assert (await asyncio.wait_for(sending, 30)).status_code == 303
    assert "<img" in await ann.open(here)


async def test_a_picture_is_sent_by_a_form(site: Site) -> None:
    ann, ben, cat = [await site.browser().sign_up(name) for name in ("ann", "ben", "cat")]
    here = await with_(ann, "ben")
    for data, type in ((b"", "image/png"), (b"x", "image/png"), (drawn("image/png"), "text/html")):
        await picture(ann, here, data, type)
        assert ann.status == 422, type
        (field,) = re.findall(r'<[^>]*aria-invalid="true"[^>]*>', ann.html)
        assert all(
            told in field for told in ('id="picture"', 'aria-describedby="picture-wrong picture-hint"', "autofocus")
        )
        assert re.search(r"<details[^>]* open><summary>Send a picture", ann.html)
        assert 'id="picture-wrong"' in ann.html
        assert ("This file is not a PNG picture." in ann.html) == (data == b"x")
    once = ann.form(f"{here}/picture").fields["once"]
    for _ in range(2):
        await picture(ann, here, told_all("image/jpeg"), once=once)
        assert ann.status == 200, ann.html
    (address,) = re.findall(r'<img src="(/images/[0-9a-f]{24})"', await ben.open(here))
    assert 'alt="Picture from ann"' in ben.html
    for browser in (ann, ben):
        shown = await browser.client.get(address)
        assert (shown.headers["content-type"], shown.headers["x-content-type-options"]) == ("image/jpeg", "nosniff")
        assert shown.headers["cache-control"].startswith("private")
        assert WHERE not in shown.content
    assert (await cat.client.get(address)).status_code == 404
    assert (await site.browser().client.get(address)).status_code == 303
    large = await picture(ann, here, bytes(6 * 1024 * 1024))
    assert large.status_code == 413
