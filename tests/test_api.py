"""The HTTP API, line by line as it is promised, and the edge around it."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from bson import ObjectId
from prometheus_client.parser import text_string_to_metric_families
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError, WriteError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import logs
from app.accounts import Accounts
from app.config import Config
from app.departures import depart, end_conversations
from app.inbox.notifications import Notifications
from app.models import SETTINGS, Status, User
from app.names import Names
from app.social.statuses import Statuses
from app.stack import OutOfTime, Stack, connected
from app.stack.cost import counted
from app.stack.queue import DeliveryQueue, QueueDown
from app.web import EXPORTS, api, create_app, export, health, sampled, schemas
from app.web.api import OPERATIONS
from app.web.api_operation import Call, Operation, Reply, routes_of
from phases import DEFAULT, PHASES
from phases.p2_push import PUSH
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from phases.p6_hybrid import HYBRID
from phases.pulling import author
from phases.pulling.heavy import HEAVY
from phases.timelines import Timelines
from tests.dates import NOON, ManualClock
from tests.site import Site
from tests.world import STAND_INS
from workers import sampler
from workers.tailer import StreamLease
from workers.worker import drain_queues

pytestmark = pytest.mark.anyio
SLUGS = [phase.slug for phase in PHASES]
PASSWORD = "correct horse"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SOMEBODY = {"handle": "ann", "password": PASSWORD}
STATUSES = {"text": {"$exists": True}}  # versions of readers are among them
NOWHERE = "0" * 24


@dataclass
class Api:
    """The API as one person, or as nobody."""

    http: httpx.AsyncClient
    stack: Stack
    token: str | None = None
    id: str = ""

    async def __call__(self, method: str, path: str, status: int = 200, **sent: Any) -> httpx.Response:
        """The answer, which must have this status."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= sent.pop("headers", {})
        answer = await self.http.request(method, f"/api/v1{path}", headers=headers, **sent)
        assert answer.status_code == status, answer.text
        if status >= 400:
            assert_problem(answer)
        return answer

    async def json(self, method: str, path: str, status: int = 200, **sent: Any) -> Any:
        return (await self(method, path, status, **sent)).json()

    async def person(self, handle: str, *, admin: bool = False) -> "Api":
        """Somebody new, signed in."""
        now = self.stack.clock.now()
        user = User(handle=handle, name=handle.title(), admin=admin, created_at=now)
        await user.insert()
        token, _ = await Accounts(self.stack).new_token(user.id)
        return Api(self.http, self.stack, token, str(user.id))

    async def post(self, text: str, **fields: Any) -> dict[str, Any]:
        status: dict[str, Any] = await self.json("POST", "/statuses", 201, json={"text": text, **fields})
        return status

    async def sees(self, phase: str | None = None) -> list[str]:
        """The texts of the first page of my timeline."""
        query = {"phase": phase} if phase else {}
        return [status["text"] for status in (await self.json("GET", "/timeline", params=query))["statuses"]]


def assert_problem(answer: httpx.Response, *more: str) -> None:
    """RFC 9457, and nothing of our insides."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"]
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in answer.text
    assert set(problem) <= {"type", "title", "status", "detail", "request_id", "errors", *more}
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert ("errors" in problem) == (answer.status_code == 422)
    for error in problem.get("errors", []):
        assert set(error) == {"field", "message"}


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[tuple[Api, Starlette]]:
    async with connected(STAND_INS, config) as stack:
        app = create_app(stack, await Timelines.open(stack))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://feedlab.test") as http:
            yield Api(http, stack), app


@pytest.fixture
async def nobody() -> AsyncIterator[Api]:
    async with opened(Config.from_environment({})) as (api, _):
        yield api


@pytest.fixture
async def ann(nobody: Api) -> Api:
    return await nobody.person("ann")


@pytest.fixture
async def bob(nobody: Api) -> Api:
    return await nobody.person("bob")


def fields(answer: httpx.Response) -> set[str]:
    return {error["field"] for error in answer.json()["errors"]}


# Who am I


async def test_signing_up_in_and_out(nobody: Api) -> None:
    made = await nobody.json("POST", "/users", 201, json={"handle": "Ann", "name": "Ann Lee", "password": PASSWORD})
    assert made == {"id": made["id"], "handle": "ann", "name": "Ann Lee"}
    assert re.fullmatch("[0-9a-f]{24}", made["id"])
    given = await nobody.json("POST", "/tokens", 201, json=SOMEBODY)
    assert set(given) == {"token", "expires_at"}
    assert TIME.fullmatch(given["expires_at"])
    ann = Api(nobody.http, nobody.stack, given["token"])
    assert (await ann.json("GET", "/me"))["id"] == made["id"]
    assert (await ann("DELETE", "/tokens/current", 204)).content == b""
    await ann("GET", "/me", 401)


async def test_a_token_that_is_over_says_nothing_more(nobody: Api) -> None:
    """Though this process remembers whose it was, and their name."""
    for handle in ("ann", "bob"):
        await nobody("POST", "/users", 201, json=SOMEBODY | {"handle": handle})
    given = await nobody.json("POST", "/tokens", 201, json=SOMEBODY)
    ann = Api(nobody.http, nobody.stack, given["token"])
    talk = (await ann.json("PUT", "/conversations/bob", 201))["id"]
    said = [
        ("/statuses", {"text": "too late"}),
        (f"/conversations/{talk}/messages", {"client_id": "late", "text": "too late"}),
    ]
    await ann("POST", "/statuses", 201, json={"text": "in time"})
    await ann("DELETE", "/tokens/current", 204)
    for path, body in said:
        await ann("POST", path, 401, json=body)
    assert await nobody.stack.db["statuses"].count_documents(STATUSES) == 1
    assert await nobody.stack.db["messages"].count_documents({}) == 0


@pytest.fixture
async def signed_out(nobody: Api) -> Api:
    """Somebody who has read a page, and was then signed out in another process."""
    await nobody("POST", "/users", 201, json=SOMEBODY)
    given = await nobody.json("POST", "/tokens", 201, json=SOMEBODY)
    ann = Api(nobody.http, nobody.stack, given["token"])
    await ann("GET", "/timeline", 200)
    await Accounts(nobody.stack).sign_out(given["token"])
    return ann


@pytest.mark.parametrize("query", ["", "?limit=0", "?phase=none"])
async def test_a_page_is_given_to_nobody_whose_token_is_over(signed_out: Api, query: str) -> None:
    """Though it has been made by then; nor is what was wrong with the call."""
    await signed_out("GET", f"/timeline{query}", 401)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/mutes", None),
        ("GET", "/mutes?limit=0", None),
        ("GET", "/timeline?limit=0", None),
        ("POST", "/statuses", {"text": "too late"}),
        ("POST", "/statuses", {"text": ""}),
        ("POST", "/statuses", {"text": "x" * 501}),
    ],
)
async def test_what_is_ready_before_the_token_is_known_to_be_over(
    signed_out: Api, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: Any
) -> None:
    """It is neither done nor told to anybody."""
    for name in ("authenticate", "good_versions"):
        monkeypatch.setattr(Accounts, name, _taking_turns(getattr(Accounts, name)))
    await signed_out(method, path, 401, json=body)
    assert await signed_out.stack.db["statuses"].count_documents(STATUSES) == 0


def _taking_turns(look_up: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def taking_turns(*asked: Any) -> Any:
        for _ in range(100):  # of the event loop
            await asyncio.sleep(0)
        return await look_up(*asked)

    return taking_turns


async def test_a_name_may_be_left_out(nobody: Api) -> None:
    assert (await nobody.json("POST", "/users", 201, json=SOMEBODY))["name"] == "ann"


async def test_a_taken_handle_is_a_conflict(nobody: Api) -> None:
    await nobody("POST", "/users", 201, json=SOMEBODY)
    await nobody("POST", "/users", 409, json=SOMEBODY | {"handle": "ANN"})


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"handle": "a-b"}, "handle"),
        ({"handle": "a" * 31}, "handle"),
        ({"handle": ""}, "handle"),
        ({"handle": 5}, "handle"),
        ({"handle": None}, "handle"),
        ({"password": "7 chars"}, "password"),
        ({"password": "x" * 201}, "password"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"admin": True}, "admin"),
    ],
)
async def test_a_wrong_field_is_named(nobody: Api, wrong: dict[str, Any], field: str) -> None:
    assert fields(await nobody("POST", "/users", 422, json=SOMEBODY | wrong)) == {field}


async def test_wrong_password_and_unknown_handle_are_the_same(nobody: Api) -> None:
    await nobody("POST", "/users", 201, json=SOMEBODY)
    wrong = await nobody("POST", "/tokens", 401, json=SOMEBODY | {"password": "wrong password"})
    for handle in ("nobody", "not a handle", ""):
        unknown = await nobody("POST", "/tokens", 401, json=SOMEBODY | {"handle": handle})
        assert unknown.json() | {"request_id": 0} == wrong.json() | {"request_id": 0}
    assert wrong.headers["www-authenticate"] == "Bearer"


async def test_lone_surrogates_are_nobodys(nobody: Api) -> None:
    await nobody("POST", "/users", 201, json=SOMEBODY)
    for name in ("handle", "password", "name"):
        refused = await nobody("POST", "/users", 422, content=json.dumps(SOMEBODY | {name: "\ud800" * 10}))
        assert fields(refused) == {name}
    for name in ("handle", "password"):
        await nobody("POST", "/tokens", 401, content=json.dumps(SOMEBODY | {name: "\ud800" * 10}))


async def test_too_many_failures_to_sign_in() -> None:
    async with opened(Config.from_environment({}, failed_sign_ins_per_minute=2)) as (nobody, _):
        await nobody("POST", "/tokens", 401, json=SOMEBODY)
        await nobody("POST", "/tokens", 401, json=SOMEBODY)
        refused = await nobody("POST", "/tokens", 429, json=SOMEBODY)
        assert 1 <= int(refused.headers["retry-after"]) <= 60


OPEN = {("POST", "/users"), ("POST", "/tokens"), ("PUT", "/uploads/{upload}"), ("GET", "/openapi.json")}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_every_other_call_needs_a_token(nobody: Api, operation: Any) -> None:
    assert (operation.auth == "none") == ((operation.method, operation.path) in OPEN)
    if operation.auth == "none":
        return
    path = re.sub("{.*?}", NOWHERE, operation.path)
    for authorization in ("", "Bearer", "Bearer ", "Bearer wrong", "Basic YTpi", "Bearer \xff", "wrong"):
        refused = await nobody(operation.method, path, 401, headers={"Authorization": authorization.encode("latin-1")})
        assert refused.headers["www-authenticate"].startswith("Bearer")


async def test_the_scheme_is_case_insensitive(ann: Api) -> None:
    await ann("GET", "/me", headers={"Authorization": f"bEARER {ann.token}"})


async def test_a_profile(nobody: Api, ann: Api, bob: Api) -> None:
    await bob.post("hello")
    await ann("PUT", "/follows/bob", 204)
    assert await ann.json("GET", "/users/BOB") == {
        "id": bob.id,
        "handle": "bob",
        "name": "Bob",
        "followers": 1,
        "following": 0,
        "statuses": 1,
        "you_follow": True,
        "follows_you": False,
        "blocked": False,
        "muted": False,
        "presence": None,
    }
    seen = await bob.json("GET", "/users/ann")
    assert (seen["following"], seen["you_follow"], seen["follows_you"]) == (1, False, True)
    await bob("PUT", "/blocks/ann", 204)
    seen = await bob.json("GET", "/users/ann")
    assert (seen["following"], seen["follows_you"], seen["blocked"]) == (0, False, True)
    assert not (await ann.json("GET", "/users/bob"))["blocked"]
    mine = await bob.json("GET", "/me")
    assert (mine["handle"], mine["statuses"], mine["you_follow"], mine["blocked"]) == ("bob", 1, False, False)


async def test_a_name_is_changed(ann: Api, bob: Api) -> None:
    await bob("PUT", "/follows/ann", 204)
    status = await ann.post("hello")
    assert (await bob.json("GET", "/timeline"))["statuses"][0]["author"]["name"] == "Ann"
    changed = await ann.json("PUT", "/me", json={"name": " Ann A. "})
    assert changed == await ann.json("GET", "/me") == changed | {"handle": "ann", "name": "Ann A."}
    for listed in ("/timeline", "/users/ann/statuses"):
        assert (await bob.json("GET", listed))["statuses"][0]["author"]["name"] == "Ann A."
    assert (await bob.json("GET", f"/statuses/{status['id']}"))["author"]["name"] == "Ann A."
    assert (await bob.json("GET", "/users/bob/following"))["users"][0]["name"] == "Ann A."
    assert (await ann.post("again"))["author"]["name"] == "Ann A."
    for nothing in ({}, {"name": None}):
        assert (await ann.json("PUT", "/me", json=nothing))["name"] == "Ann A."
    assert fields(await ann("PUT", "/me", 422, json={"name": "x" * 101})) == {"name"}
    assert fields(await ann("PUT", "/me", 422, json={"name": "x", "presence": "friends"})) == {"presence"}
    assert (await ann.json("PUT", "/me", json={"name": " "}))["name"] == "ann"


async def test_a_person_changes_their_name_only_so_often() -> None:
    """All processes look names up anew after each change. Their other changes go on, and those of others."""
    async with opened(Config(renames_per_hour=2)) as (site, _):
        ann, bob = await site.person("ann"), await site.person("bob")
        for name in ("Ann A.", "Ann B."):
            assert (await ann.json("PUT", "/me", json={"name": name}))["name"] == name
        refused = await ann("PUT", "/me", 429, json={"name": "Ann C.", "presence": "nobody"})
        assert 1 <= int(refused.headers["retry-after"]) <= 3_600
        shown = await ann.json("PUT", "/me", json={"presence": "mutuals"})
        assert shown["name"] == "Ann B."
        await ann.post("hello")
        await bob("PUT", "/me", json={"name": "Bob B."})


async def signed_up(nobody: Api, handle: str) -> Api:
    """With a password, and a token from signing in."""
    made = await nobody.json("POST", "/users", 201, json={"handle": handle, "password": PASSWORD})
    signed_in = await nobody.json("POST", "/tokens", 201, json={"handle": handle, "password": PASSWORD})
    return Api(nobody.http, nobody.stack, signed_in["token"], made["id"])


async def test_a_password_is_changed_and_ends_all_other_tokens(nobody: Api) -> None:
    zoe = await signed_up(nobody, "zoe")
    other = await nobody.json("POST", "/tokens", 201, json={"handle": "zoe", "password": PASSWORD})
    new = {"old": PASSWORD, "new": "another horse"}
    assert fields(await zoe("PUT", "/me/password", 422, json=new | {"new": "7 chars"})) == {"new"}
    assert fields(await zoe("PUT", "/me/password", 422, json={"old": PASSWORD})) == {"new"}
    await zoe("PUT", "/me/password", 401, json=new | {"old": "wrong horse"})
    await nobody("PUT", "/me/password", 401, json=new)
    await nobody("GET", "/me", headers={"Authorization": f"Bearer {other['token']}"})
    await zoe("PUT", "/me/password", 204, json=new)
    await zoe("GET", "/me")
    await nobody("GET", "/me", 401, headers={"Authorization": f"Bearer {other['token']}"})
    await nobody("POST", "/tokens", 401, json={"handle": "zoe", "password": PASSWORD})
    await nobody("POST", "/tokens", 201, json={"handle": "zoe", "password": "another horse"})


async def test_an_account_is_deleted_for_good(nobody: Api, ann: Api) -> None:
    zoe = await signed_up(nobody, "zoe")
    await ann("PUT", "/follows/zoe", 204)
    await zoe("PUT", "/follows/ann", 204)
    status, liked = await zoe.post("hello"), await ann.post("of ann")
    await zoe("PUT", f"/statuses/{liked['id']}/like", 204)
    assert sorted(await ann.sees()) == ["hello", "of ann"]
    assert (await ann.json("GET", f"/statuses/{liked['id']}"))["likes"] == 1
    await zoe("DELETE", "/me", 401, json={"password": "wrong horse"})
    assert fields(await zoe("DELETE", "/me", 422, json={})) == {"password"}
    await zoe("DELETE", "/me", 202, json={"password": PASSWORD})
    assert [await ann.sees(slug) for slug in SLUGS] == [["of ann"]] * len(SLUGS)
    assert await ann.json("GET", f"/statuses/{liked['id']}") == liked
    await ann("GET", f"/statuses/{status['id']}", 404)
    await ann("GET", "/users/zoe", 404)
    await zoe("GET", "/me", 401)
    assert (await ann.json("GET", "/me"))["following"] == 0
    await nobody("POST", "/users", 409, json={"handle": "ZOE", "password": PASSWORD})
    await nobody("POST", "/tokens", 401, json={"handle": "zoe", "password": PASSWORD})


async def test_what_comes_too_late_for_an_account_is_told_so(nobody: Api) -> None:
    """Both calls are let in before either is done, as when a button is pressed twice."""
    zoe = await signed_up(nobody, "zoe")
    headers = {"Authorization": f"Bearer {zoe.token}"}
    calls = [
        nobody.http.request("DELETE", "/api/v1/me", json={"password": PASSWORD}, headers=headers) for _ in range(2)
    ]
    done, late = sorted(await asyncio.gather(*calls), key=lambda answer: answer.status_code)
    assert (done.status_code, late.status_code) == (202, 401)
    assert_problem(late)
    later = await zoe("DELETE", "/me", 401, json={"password": PASSWORD})
    assert late.json()["detail"] == later.json()["detail"]
    assert late.headers["www-authenticate"] == later.headers["www-authenticate"]


@pytest.mark.parametrize("ended", [False, True], ids=["just now", "conversations too"])
@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("PUT /follows/ann", None),
        ("PUT /blocks/ann", None),
        ("PUT /mutes/ann", None),
        ("PUT /circle/ann", None),
        ("PUT /conversations/bob", None),
        ("PUT /statuses/{status}/like", None),
        ("POST /conversations/{talk}/messages", {"client_id": "1", "text": "hello"}),
        ("PUT /me", {"name": "Zoe Z."}),
        ("PUT /me", {"presence": "nobody"}),
        ("PUT /me", {}),
    ],
)
async def test_whose_account_ends_while_they_ask_is_told_so(
    nobody: Api, ann: Api, call: str, body: dict[str, str] | None, ended: bool
) -> None:
    """Not that there is no ann: of the two in a change, it says who has gone."""
    zoe, status = await nobody.person("zoe"), await ann.post("hello")
    await nobody.person("bob")
    await zoe("PUT", "/follows/ann", 204)
    talk = await zoe.json("PUT", "/conversations/ann", 201)
    enter = Operation._enter

    async def and_go(self: Operation, asked: Call) -> None:
        await enter(self, asked)
        await depart(nobody.stack.db, nobody.stack.clock, asked.me.id)
        if ended:
            await end_conversations(nobody.stack, asked.me.id)

    method, path = call.format(status=status["id"], talk=talk["id"]).split()
    with patch.object(Operation, "_enter", and_go):
        late = await zoe(method, path, 401, json=body)
    later = await zoe("GET", "/me", 401)
    assert late.json()["detail"] == later.json()["detail"]


@contextmanager
def departing_before_names(stack: Stack, person: str) -> Iterator[None]:
    """The person departs after an answer has been judged, and another request hears of that first."""
    names_of, departing = Names.of, [ObjectId(person)]

    async def after_departure(self: Names, *asked: Any) -> Any:
        while departing:
            await depart(stack.db, stack.clock, departing.pop())
            await names_of(self, [ObjectId(person)])
        return await names_of(self, *asked)

    with patch.object(Names, "of", after_departure):
        yield


@pytest.mark.parametrize("phase", SLUGS)
async def test_a_page_is_full_whoever_departs_while_it_is_made(nobody: Api, ann: Api, phase: str) -> None:
    ben, zoe = await nobody.person("ben"), await nobody.person("zoe")
    for handle in ("ben", "zoe"):
        await ann("PUT", f"/follows/{handle}", 204)
    for whoever, text in ((ben, "1"), (ben, "2"), (zoe, "3"), (ben, "4")):
        await whoever.post(text)
    for _ in range(2):
        await ann.sees(phase)
    with departing_before_names(ann.stack, zoe.id):
        page = await ann.json("GET", f"/timeline?phase={phase}&limit=2")
    assert [status["text"] for status in page["statuses"]] == ["4", "2"]
    assert page["next"] == page["statuses"][-1]["id"]
    assert await ann.sees(phase) == ["4", "2", "1"]


async def test_a_status_is_not_shown_without_its_author(nobody: Api, ann: Api) -> None:
    zoe = await nobody.person("zoe")
    await ann("PUT", "/follows/zoe", 204)
    status = await zoe.post("hello")
    with departing_before_names(ann.stack, zoe.id):
        await ann("GET", f"/statuses/{status['id']}", 404)


async def test_a_notification_is_not_shown_without_whom_it_is_by(told: "Told") -> None:
    ann, bob, work = told
    await bob("PUT", "/follows/ann", 204)
    await work()
    with departing_before_names(ann.stack, bob.id):
        assert await ann.json("GET", "/notifications") == {
            "notifications": [],
            "unread": 0,
            "read_to": 0,
            "next": None,
        }


async def test_a_post_costs_one_look_up_and_the_insert(ann: Api) -> None:
    """The versions of the poster say that the token is good, and that the name is as remembered."""
    await ann.post("the first")
    with counted() as cost:
        assert (await ann.post("the second"))["author"]["name"] == "Ann"
    assert cost.mongodb == 2


async def test_whoever_guesses_a_password_of_their_own_is_slowed_down_too(nobody: Api) -> None:
    zoe = await signed_up(nobody, "zoe")
    for _ in range(5):
        await zoe("DELETE", "/me", 401, json={"password": "wrong horse"})
        await zoe("PUT", "/me/password", 401, json={"old": "wrong horse", "new": "another horse"})
    refused = await zoe("PUT", "/me/password", 429, json={"old": PASSWORD, "new": "another horse"})
    assert int(refused.headers["retry-after"]) >= 1
    await zoe("DELETE", "/me", 429, json={"password": PASSWORD})


async def test_everything_of_ones_own_is_exported() -> None:
    async with opened(Config.from_environment({})) as (nobody, app):
        ann, bob = await nobody.person("ann"), await nobody.person("bob")
        await _exported(ann, bob, app.state.services.timelines)


async def _exported(ann: Api, bob: Api, timelines: Timelines) -> None:
    """Each list longer than what is looked up at once."""
    for one, other in ((ann, "bob"), (bob, "ann")):
        await one("PUT", f"/follows/{other}", 204)
    mine = [await ann.post(f"status {n}", audience="circle") for n in range(3)]
    theirs = [await bob.post(f"@ann {n}") for n in range(3)]
    for status in theirs:
        await ann("PUT", f"/statuses/{status['id']}/like", 204)
    await ann("DELETE", f"/statuses/{mine.pop()['id']}", 204)
    for handle in ("cat", "dan"):
        await ann.person(handle)
    for edge in ("circle/bob", "circle/cat", "blocks/cat", "mutes/dan", "mutes/cat", "follows/dan"):
        await ann("PUT", f"/{edge}", 204)
    await ann("PUT", "/me", json={"presence": "nobody"})
    await drain_queues(timelines)
    with patch.object(export, "AT_ONCE", 1):
        answer = await ann("GET", "/me/export")
    assert "attachment" in answer.headers["content-disposition"]
    found = answer.json()
    assert schemas.Export.model_validate(found)
    assert found["account"] | {"created_at": ""} == {
        "id": ann.id, "handle": "ann", "name": "Ann", "created_at": "", "presence": "nobody", "last_seen_at": None,
    }  # fmt: skip
    assert found["statuses"] == [await ann.json("GET", f"/statuses/{status['id']}") for status in reversed(mine)]
    people = {name: [one["handle"] for one in found[name]] for name in ("following", "followers", "circle")}
    assert people == {"following": ["dan", "bob"], "followers": ["bob"], "circle": ["cat", "bob"]}
    assert [[one["handle"] for one in found[name]] for name in ("blocks", "mutes")] == [["cat"], ["dan", "cat"]]
    assert found["likes"] == [status["id"] for status in reversed(theirs)]
    assert found["notifications"] == (await ann.json("GET", "/notifications"))["notifications"] != []
    for secret in ("argon2", "password", "digest"):
        assert secret not in answer.text
    assert (await bob.json("GET", "/me/export"))["statuses"][0]["text"] == "@ann 2"


async def test_mutual_followers_see_who_is_online_unless_it_is_hidden() -> None:
    async with opened(Config.from_environment({})) as (nobody, app):
        ann, bob = await nobody.person("ann"), await nobody.person("bob")
        await app.state.services.presences.connected(ObjectId(bob.id), "a stream")

        async def presence() -> Any:
            return (await ann.json("GET", "/users/bob"))["presence"]

        assert await presence() is None
        await ann("PUT", "/follows/bob", 204)
        assert await presence() is None
        await bob("PUT", "/follows/ann", 204)
        shown = await presence()
        assert (await ann.json("PUT", "/conversations/bob", 201))["with"]["presence"] == shown
        assert (await ann.json("GET", "/conversations"))["conversations"][0]["with"]["presence"] == shown
        assert (shown["online"], bool(TIME.fullmatch(shown["last_seen_at"]))) == (True, True)
        assert (await bob.json("GET", "/users/ann"))["presence"] == {"online": False, "last_seen_at": None}
        assert (await bob.json("PUT", "/me", json={"presence": "nobody"}))["presence"] is None
        assert await presence() is None
        assert (await bob.json("GET", "/users/ann"))["presence"] is not None
        await bob("PUT", "/me", json={"presence": None, "name": "Bob"})
        assert await presence() is None
        await bob("PUT", "/me", json={"presence": "mutuals"})
        assert await presence() == shown
        await bob("PUT", "/blocks/ann", 204)
        assert await presence() is None


async def test_exports_have_a_limit(ann: Api, bob: Api) -> None:
    for _ in range(EXPORTS):
        await ann("HEAD", "/me/export")
    await ann("GET", "/me/export", 429)
    await bob("GET", "/me/export")


# Friends

EDGES = ("follows", "blocks", "circle", "mutes")


@pytest.mark.parametrize("edge", EDGES)
async def test_an_edge_is_made_and_ended_any_number_of_times(ann: Api, bob: Api, edge: str) -> None:
    for method in ("PUT", "PUT", "DELETE", "DELETE"):
        assert (await ann(method, f"/{edge}/bob", 204)).content == b""


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_an_edge_leads_to_somebody_else(ann: Api, edge: str, method: str) -> None:
    await ann(method, f"/{edge}/ann", 422)
    for handle in ("nobody", "no-handle", "%00", "a" * 31, "%ff", "%E2%84%AA"):
        await ann(method, f"/{edge}/{handle}", 404)


async def test_mutes(ann: Api, bob: Api) -> None:
    await ann("PUT", "/follows/bob", 204)
    await bob.post("hello")
    for _ in range(2):
        await ann("PUT", "/mutes/bob", 204)
    assert (await ann.json("GET", "/users/bob"))["muted"] is True
    assert (await bob.json("GET", "/users/ann"))["muted"] is False
    assert [await ann.sees(phase) for phase in SLUGS] == [[]] * len(SLUGS)
    assert len((await ann.json("GET", "/users/bob/statuses"))["statuses"]) == 1
    listed = await ann.json("GET", "/mutes")
    assert listed == {"users": [{"id": bob.id, "handle": "bob", "name": "Bob"}], "next": None}
    for _ in range(2):
        await ann("DELETE", "/mutes/bob", 204)
    assert await ann.json("GET", "/mutes") == {"users": [], "next": None}
    assert [await ann.sees(phase) for phase in SLUGS] == [["hello"]] * len(SLUGS)


async def test_whom_one_blocks_and_ones_circle_are_listed(nobody: Api, ann: Api) -> None:
    for handle in ("cid", "dot", "eve"):
        await nobody.person(handle)
        for edge in ("blocks", "circle"):
            await ann("PUT", f"/{edge}/{handle}", 204)
    for edge in ("blocks", "circle"):
        first = await ann.json("GET", f"/{edge}", params={"limit": 2})
        assert [person["handle"] for person in first["users"]] == ["eve", "dot"]
        rest = await ann.json("GET", f"/{edge}", params={"limit": 2, "before": first["next"]})
        assert ([person["handle"] for person in rest["users"]], rest["next"]) == (["cid"], None)


async def test_nobody_follows_across_a_block(ann: Api, bob: Api) -> None:
    await ann("PUT", "/follows/bob", 204)
    await bob("PUT", "/follows/ann", 204)
    await ann("PUT", "/blocks/bob", 204)
    for one, other in ((ann, "bob"), (bob, "ann")):
        profile = await one.json("GET", f"/users/{other}")
        assert (profile["you_follow"], profile["follows_you"]) == (False, False)
        await one("PUT", f"/follows/{other}", 403)
    await ann("DELETE", "/blocks/bob", 204)
    await bob("PUT", "/follows/ann", 204)


async def test_lists_of_people_are_walked_to_the_end(nobody: Api, ann: Api) -> None:
    fans = [await nobody.person(f"fan{n}") for n in range(5)]
    for fan in fans:
        await fan("PUT", "/follows/ann", 204)
        await ann("PUT", f"/follows/fan{fans.index(fan)}", 204)
    for listed in ("followers", "following"):
        handles, query = [], {"limit": "2"}
        for _ in range(3):
            page = await ann.json("GET", f"/users/ann/{listed}", params=query)
            assert set(page) == {"users", "next"}
            handles += [user["handle"] for user in page["users"]]
            if page["next"] is None:
                break
            query["before"] = page["next"]
        assert page["next"] is None
        assert handles == ["fan4", "fan3", "fan2", "fan1", "fan0"]
    await ann("GET", "/users/nobody/followers", 404)


# Statuses


async def test_a_status(ann: Api) -> None:
    posted = await ann.post("  hello\nthere ")
    assert posted == {
        "id": posted["id"],
        "author": {"id": ann.id, "handle": "ann", "name": "Ann"},
        "text": "hello\nthere",
        "audience": "followers",
        "created_at": posted["created_at"],
        "likes": 0,
        "you_like": False,
    }
    assert TIME.fullmatch(posted["created_at"])
    assert await ann.json("GET", f"/statuses/{posted['id']}") == posted
    assert await ann.json("GET", f"/statuses/{posted['id'].upper()}") == posted


@pytest.mark.parametrize("text", ["x", "x" * 500, " " * 300 + "x" * 500, "👍" * 500, "\x01", "a\u2028b"])
async def test_texts_of_1_to_500_characters(ann: Api, text: str) -> None:
    assert (await ann.post(text))["text"] == text.strip()


@pytest.mark.parametrize(
    "text", ['""', '" \\n\\t"', f'"{"x" * 501}"', '"a\\u0000"', '"\\ud800"', "5", "null", "[]", "true"]
)
async def test_other_texts(ann: Api, text: str) -> None:
    refused = await ann("POST", "/statuses", 422, content=f'{{"text": {text}}}')
    assert fields(refused) == {"text"}


async def test_audiences(ann: Api, bob: Api) -> None:
    await bob("PUT", "/follows/ann", 204)
    ids = {audience: (await ann.post("x", audience=audience))["id"] for audience in ("followers", "mutuals", "circle")}
    await bob("GET", f"/statuses/{ids['followers']}")
    await bob("GET", f"/statuses/{ids['mutuals']}", 404)
    await bob("GET", f"/statuses/{ids['circle']}", 404)
    await ann("PUT", "/follows/bob", 204)
    await ann("PUT", "/circle/bob", 204)
    assert (await bob.json("GET", f"/statuses/{ids['mutuals']}"))["audience"] == "mutuals"
    await bob("GET", f"/statuses/{ids['circle']}")
    await ann("DELETE", "/circle/bob", 204)
    await bob("GET", f"/statuses/{ids['circle']}", 404)
    assert fields(await ann("POST", "/statuses", 422, json={"text": "x", "audience": "world"})) == {"audience"}


async def test_the_same_key_is_the_same_status(ann: Api, bob: Api) -> None:
    headers = {"Idempotency-Key": "key-1"}
    first = await ann.json("POST", "/statuses", 201, json={"text": "once"}, headers=headers)
    assert await ann.json("POST", "/statuses", 200, json={"text": " once "}, headers=headers) == first
    await ann("POST", "/statuses", 409, json={"text": "twice"}, headers=headers)
    await ann("POST", "/statuses", 409, json={"text": "once", "audience": "circle"}, headers=headers)
    assert await bob.json("POST", "/statuses", 201, json={"text": "once"}, headers=headers) != first
    assert await Status.find(STATUSES).count() == 2


@pytest.mark.parametrize("key", [b"", b"x" * 201, b"two words", b"\xff"])
async def test_a_key_is_visible_ascii(ann: Api, key: bytes) -> None:
    refused = await ann("POST", "/statuses", 422, json={"text": "x"}, headers={"Idempotency-Key": key})
    assert fields(refused) == {"Idempotency-Key"}


async def test_a_deleted_status_is_gone(ann: Api, bob: Api) -> None:
    await bob("PUT", "/follows/ann", 204)
    status = await ann.post("x")
    await bob("DELETE", f"/statuses/{status['id']}", 404)
    await ann("DELETE", f"/statuses/{status['id']}", 204)
    await ann("DELETE", f"/statuses/{status['id']}", 404)
    await ann("GET", f"/statuses/{status['id']}", 404)
    await bob("GET", f"/statuses/{status['id']}", 404)
    assert (await ann.json("GET", "/me"))["statuses"] == 0


async def test_likes(ann: Api, bob: Api) -> None:
    await bob("PUT", "/follows/ann", 204)
    status = await ann.post("likeable")
    like = f"/statuses/{status['id']}/like"
    for _ in range(2):
        await bob("PUT", like, 204)
    liked = status | {"likes": 1, "you_like": True}
    assert await bob.json("GET", f"/statuses/{status['id']}") == liked
    assert (await bob.json("GET", "/timeline"))["statuses"] == [liked]
    assert (await bob.json("GET", "/users/ann/statuses"))["statuses"] == [liked]
    assert (await ann.json("GET", "/timeline"))["statuses"] == [liked | {"you_like": False}]
    await bob("DELETE", "/follows/ann", 204)
    await bob("PUT", like, 404)
    await bob("DELETE", like, 204)
    await bob("DELETE", like, 404)
    for _ in range(2):
        await ann("DELETE", like, 204)
    assert await ann.json("GET", f"/statuses/{status['id']}") == status
    await ann("DELETE", f"/statuses/{status['id']}", 204)
    for method in ("PUT", "DELETE"):
        await ann(method, like, 404)


@pytest.mark.parametrize("id", [NOWHERE, "x", "0" * 23, "0" * 25, "g" * 24, "%00", "%ff" * 12, "twelve bytes"])
async def test_no_such_status(ann: Api, id: str) -> None:
    await ann("GET", f"/statuses/{id}", 404)
    await ann("DELETE", f"/statuses/{id}", 404)
    await ann("PUT", f"/statuses/{id}/like", 404)
    await ann("DELETE", f"/statuses/{id}/like", 404)


async def test_somebodys_statuses_are_walked_to_the_end(ann: Api, bob: Api) -> None:
    await bob("PUT", "/follows/ann", 204)
    ids = [(await ann.post(str(n), audience="circle" if n == 2 else "followers"))["id"] for n in range(5)]
    first = await bob.json("GET", "/users/ann/statuses", params={"limit": 2})
    assert [status["id"] for status in first["statuses"]] == [ids[4], ids[3]]
    rest = await bob.json("GET", "/users/ann/statuses", params={"limit": 2, "before": first["next"]})
    assert ([status["id"] for status in rest["statuses"]], rest["next"]) == ([ids[1], ids[0]], None)
    await ann("GET", "/users/nobody/statuses", 404)


# Notifications


@pytest.fixture
async def told() -> AsyncIterator[tuple[Api, Api, Callable[[], Awaitable[None]]]]:
    """Ann, Bob, and a worker's turn."""
    async with opened(Config.from_environment({})) as (nobody, app):
        yield await nobody.person("ann"), await nobody.person("bob"), lambda: drain_queues(app.state.services.timelines)


Told = tuple[Api, Api, Callable[[], Awaitable[None]]]


async def test_notifications(told: Told) -> None:
    ann, bob, work = told
    assert await ann.json("GET", "/notifications") == {"notifications": [], "unread": 0, "read_to": 0, "next": None}
    await bob("PUT", "/follows/ann", 204)
    await ann("PUT", "/circle/bob", 204)
    status = await ann.post("hello @BOB")
    await bob("PUT", f"/statuses/{status['id']}/like", 204)
    await work()
    page = await ann.json("GET", "/notifications")
    liked, followed = page["notifications"]
    assert (page["unread"], page["read_to"], page["next"]) == (2, 0, None)
    assert liked == {
        "id": liked["id"],
        "seq": 2,
        "kind": "like",
        "from": {"id": followed["from"]["id"], "handle": "bob", "name": "Bob"},
        "status": status | {"likes": 1},
        "created_at": liked["created_at"],
    }
    assert TIME.fullmatch(liked["created_at"])
    assert re.fullmatch("[0-9a-f]{24}", liked["id"])
    assert (followed["kind"], followed["seq"], followed["status"]) == ("follow", 1, None)
    page = await bob.json("GET", "/notifications")
    found = [(one["kind"], one["from"]["handle"], one["status"]) for one in page["notifications"]]
    assert found == [("mention", "ann", status | {"likes": 1, "you_like": True}), ("circle", "ann", None)]
    first = await ann.json("GET", "/notifications?limit=1")
    second = await ann.json("GET", f"/notifications?limit=1&before={first['next']}")
    assert [first["notifications"], second["notifications"], second["next"]] == [[liked], [followed], None]


async def test_notifications_are_read(told: Told) -> None:
    ann, bob, work = told
    await bob("PUT", "/follows/ann", 204)
    status = await ann.post("hello")
    await bob("PUT", f"/statuses/{status['id']}/like", 204)
    await work()
    for to, unread, read_to in ((1, 1, 1), (0, 1, 1), (10**20, 0, 2), (1, 0, 2)):
        await ann("PUT", "/notifications/read", 204, json={"to": to})
        page = await ann.json("GET", "/notifications")
        assert (page["unread"], page["read_to"], len(page["notifications"])) == (unread, read_to, 2)
    await bob("DELETE", "/follows/ann", 204)
    await bob("DELETE", f"/statuses/{status['id']}/like", 204)
    page = await ann.json("GET", "/notifications")
    assert (page["notifications"], page["unread"], page["read_to"]) == ([], 0, 2)


@pytest.mark.parametrize("first", ["counted", "page"])
@pytest.mark.parametrize("query", ["", "?limit=1", "?before=2"])
async def test_a_page_of_notifications_agrees_with_what_is_unread(
    told: Told, monkeypatch: pytest.MonkeyPatch, first: str, query: str
) -> None:
    """Both are looked up by commands of their own, and one comes and another goes between these."""
    ann, bob, work = told
    await ann("PUT", "/circle/bob", 204)
    await work()
    looked, second = asyncio.Event(), {"counted": "page", "page": "counted"}[first]
    look_first, look_second = getattr(Notifications, first), getattr(Notifications, second)

    async def then_things_happen(*args: Any) -> Any:
        found = await look_first(*args)
        await ann("PUT", "/follows/bob", 204)
        await ann("DELETE", "/circle/bob", 204)
        await work()
        looked.set()
        return found

    async def afterwards(*args: Any) -> Any:
        await looked.wait()
        return await look_second(*args)

    with monkeypatch.context() as patches:
        patches.setattr(Notifications, first, then_things_happen)
        patches.setattr(Notifications, second, afterwards)
        page = await bob.json("GET", f"/notifications{query}")
    listed = [one["seq"] for one in page["notifications"]]
    expected = {("counted", ""): ([2], 1), ("counted", "?limit=1"): ([2], 1), ("page", ""): ([1], 1)}
    expected |= {("page", "?limit=1"): ([1], 1), ("counted", "?before=2"): ([], 0), ("page", "?before=2"): ([1], 2)}
    assert (listed, page["unread"]) == expected[first, query]


@pytest.mark.parametrize("body", [{}, {"to": -1}, {"to": "1"}, {"to": None}, {"to": True}, {"to": 1, "from": 0}])
async def test_a_wrong_place_to_have_read_to(ann: Api, body: dict[str, Any]) -> None:
    wrong = "from" if "from" in body else "to"
    assert fields(await ann("PUT", "/notifications/read", 422, json=body)) == {wrong}


@pytest.mark.parametrize("query", ["before=0", "before=x", "before=-1", "limit=0", "limit=101"])
async def test_a_wrong_page_of_notifications(ann: Api, query: str) -> None:
    await ann("GET", f"/notifications?{query}", 422)


# Home timeline


async def test_a_timeline_page(ann: Api, bob: Api) -> None:
    await ann("PUT", "/follows/bob", 204)
    texts = [(await bob.post(f"status {n}"))["text"] for n in range(3)]
    page = await ann.json("GET", "/timeline")
    assert set(page) == {"phase", "statuses", "next", "cost"}
    assert page["phase"] == DEFAULT.slug
    assert [status["text"] for status in page["statuses"]] == texts[::-1]
    assert page["next"] is None
    cost = page["cost"]
    assert set(cost) == {"elapsed_ms", "source", "cold", "mongodb", "memcached", "redis"}
    assert cost["source"] in ("query", "list", "list+query", "rebuilt")
    assert isinstance(cost["cold"], bool)
    assert cost["elapsed_ms"] > 0
    assert cost["mongodb"] > 0
    assert cost["redis"] == 0


async def test_names_that_are_looked_up_for_a_page_are_among_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(Config.from_environment({})) as (nobody, app):
        ann, bob = await nobody.person("ann"), await nobody.person("bob")
        await ann("PUT", "/follows/bob", 204)
        await bob.post("hello")
        now_s, names_of = [0.0], Names.of

        async def taking_a_second(self: Names, *asked: Any) -> Any:
            now_s[0] += 1
            return await names_of(self, *asked)

        monkeypatch.setattr(api, "perf_counter", lambda: now_s[0])
        monkeypatch.setattr(Names, "of", taking_a_second)
        people = app.state.services.people

        async def commands() -> int:
            cost = (await ann.json("GET", "/timeline", params={"phase": "query"}))["cost"]
            assert cost["elapsed_ms"] == 1_000
            return int(cost["mongodb"])

        await commands()
        remembered = await commands()
        people._names = Names(app.state.services.stack.db)  # as in a process that knows nobody yet
        assert await commands() == remembered + 1
        assert await commands() == remembered


async def test_a_page_that_is_read_again_shows_what_has_changed() -> None:
    clock = ManualClock(NOON)
    async with connected(STAND_INS, Config(), clock) as stack:
        app = create_app(stack, await Timelines.open(stack))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://feedlab.test") as http:
            nobody = Api(http, stack)
            ann, bob, eve = [await nobody.person(handle) for handle in ("ann", "bob", "eve")]
            for follows in ("ann", "bob"):
                await eve("PUT", f"/follows/{follows}", 204)
            one, two, three = [await each.post(f"by {n}") for n, each in enumerate((ann, bob, ann))]
            clock.advance(stack.config.grace_s + 2)

            async def read_again() -> list[str]:
                """As JSON has it, the same before and after it is remembered."""
                for _ in range(2):
                    await eve.json("GET", "/timeline")
                page = await eve.json("GET", "/timeline")
                assert page["cost"]["source"] == "list"
                asked = await eve.json("GET", "/timeline", params={"phase": "query"})
                assert page["statuses"] == asked["statuses"]
                await eve.json("GET", "/timeline")  # this is the page that is remembered
                return [f"{s['author']['name']} {s['likes']} {s['you_like']}" for s in page["statuses"]]

            assert await read_again() == ["Ann 0 False", "Bob 0 False", "Ann 0 False"]
            await ann("PUT", "/me", json={"name": "Queen Ann"})
            assert await read_again() == ["Queen Ann 0 False", "Bob 0 False", "Queen Ann 0 False"]
            await bob("PUT", f"/statuses/{two['id']}/like", 204)
            assert await read_again() == ["Queen Ann 0 False", "Bob 1 False", "Queen Ann 0 False"]
            await eve("PUT", f"/statuses/{two['id']}/like", 204)
            assert await read_again() == ["Queen Ann 0 False", "Bob 2 True", "Queen Ann 0 False"]
            await ann("DELETE", f"/statuses/{one['id']}", 204)
            assert await read_again() == ["Queen Ann 0 False", "Bob 2 True"]
            await eve("PUT", "/mutes/ann", 204)
            assert await read_again() == ["Bob 2 True"]
            await eve("DELETE", "/mutes/ann", 204)
            assert len(await read_again()) == 2, three


@pytest.mark.parametrize("phase", SLUGS)
async def test_each_phase_may_be_named_and_walked(ann: Api, bob: Api, phase: str) -> None:
    await ann("PUT", "/follows/bob", 204)
    ids = [(await (bob, ann)[n % 2].post(str(n)))["id"] for n in range(5)]
    query = {"phase": phase, "limit": "2"}
    walked: list[str] = []
    for _ in range(3):
        page = await ann.json("GET", "/timeline", params=query)
        assert page["phase"] == phase
        walked += [status["id"] for status in page["statuses"]]
        if page["next"] is None:
            break
        query["before"] = page["next"]
    assert page["next"] is None
    assert walked == sorted(ids, reverse=True)


@pytest.mark.parametrize("phase", [None, *SLUGS])
async def test_a_refresh_is_the_first_page(ann: Api, phase: str | None) -> None:
    await ann.post("hello")
    page = await ann.json("POST", "/timeline/refresh", params={"phase": phase} if phase else {})
    assert page["phase"] == phase or (phase is None and page["phase"] == DEFAULT.slug)
    assert [status["text"] for status in page["statuses"]] == ["hello"]
    assert set(page) == {"phase", "statuses", "next", "cost"}


WALKS = ("/timeline", "/users/ann/statuses", "/users/ann/followers", "/users/ann/following")


@pytest.mark.parametrize("path", WALKS)
async def test_limit_and_before(ann: Api, path: str) -> None:
    for limit in ("1", "100"):
        await ann("GET", path, params={"limit": limit})
    for limit in ("0", "101", "-1", "x", "", "1.0", " 1", "1_0", "9" * 5000, "NaN", "\0"):
        assert fields(await ann("GET", path, 422, params={"limit": limit})) == {"limit"}
    await ann("GET", path, params={"before": NOWHERE})
    await ann("GET", path, params={"before": "F" * 24})
    for before in ("x", "", "0" * 23, "g" * 24, "\0" * 24, "é" * 24):
        assert fields(await ann("GET", path, 422, params={"before": before})) == {"before"}
    assert fields(await ann("GET", path + "?limit=1&limit=2", 422)) == {"limit"}
    await ann("GET", path + "?%ff=%ff&unknown=1")


@pytest.mark.parametrize(("method", "path"), [("GET", "/timeline"), ("POST", "/timeline/refresh")])
async def test_an_unknown_phase(ann: Api, method: str, path: str) -> None:
    for phase in ("nosql", "", "Cache"):
        assert fields(await ann(method, path, 422, params={"phase": phase})) == {"phase"}


# Phases


async def test_the_state_of_the_phases(ann: Api) -> None:
    state = await ann.json("GET", "/phases")
    assert set(state) == {"read", "delivering", "phases"}
    assert (state["read"], state["delivering"]) == (DEFAULT.slug, [DEFAULT.slug])
    assert [phase["slug"] for phase in state["phases"]] == SLUGS
    for phase in state["phases"]:
        assert set(phase) == {"slug", "title", "delivering", "since", "pending", "queued"}
        assert phase["delivering"] == (phase["slug"] == DEFAULT.slug)
        assert phase["since"] is None or TIME.fullmatch(phase["since"])


async def test_administrators_switch(nobody: Api, ann: Api) -> None:
    root = await nobody.person("root", admin=True)
    some = [PUSH.slug, CACHE.slug]
    state = await root.json("PUT", "/phases", json={"read": PUSH.slug, "delivering": some})
    assert (state["read"], state["delivering"]) == (PUSH.slug, some)
    assert await root.json("PUT", "/phases", json={"read": "query"}) | {"phases": 0} == state | {
        "read": "query",
        "phases": 0,
    }
    assert (await root.json("PUT", "/phases", json={}))["delivering"] == some
    assert (await ann.json("GET", "/phases"))["read"] == "query"
    assert (await ann.json("GET", "/timeline"))["phase"] == "query"
    for delivering in ([], ["query"], SLUGS):
        assert (await root.json("PUT", "/phases", json={"delivering": delivering}))["delivering"] == delivering
    await ann("PUT", "/phases", 403, json={"read": "cache"})
    await ann("PUT", "/phases", 403, json={"wrong": 1})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"read": "nosql"}, "read"),
        ({"read": 5}, "read"),
        ({"delivering": ["nosql"]}, "delivering"),
        ({"delivering": "cache"}, "delivering"),
        ({"delivering": ["push", 5]}, "delivering.1"),
        ({"delivering": [PUSH.slug] * 2}, "delivering"),
        ({"reads": "cache"}, "reads"),
    ],
)
async def test_a_wrong_change_of_phases(nobody: Api, change: dict[str, Any], field: str) -> None:
    root = await nobody.person("root", admin=True)
    assert fields(await root("PUT", "/phases", 422, json=change)) == {field}


async def test_in_demo_mode_everybody_switches() -> None:
    async with opened(Config.from_environment({}, demo=True)) as (nobody, _):
        ann = await nobody.person("ann")
        assert (await ann.json("GET", "/phases"))["delivering"] == SLUGS[1:]
        await ann("PUT", "/phases", json={"read": "query"})
        await nobody("PUT", "/phases", 401, json={"read": "query"})


# Errors


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"text": "x"} x',
        b'{"text": "\xff"}',
        b"\xef\xbb\xbf{}",
        '{"text": "x"}'.encode("utf-16"),
        b'{"text": NaN}',
        b'{"text": -Infinity}',
        b'{"text": "x", "text": "y"}',
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b"1" * 60_000,
        b'{"text": "a\nb"}',
    ],
)
async def test_malformed_json_is_400(ann: Api, body: bytes) -> None:
    await ann("POST", "/statuses", 400, content=body)


@pytest.mark.parametrize(
    "body", ["[]", "null", "5", '"text"', "1e999", "{}", '{"text": 1e999}', '{"\\ud800": 1, "text": "x"}']
)
async def test_json_of_another_shape_is_422(ann: Api, body: str) -> None:
    await ann("POST", "/statuses", 422, content=body)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 201),
        ("Application/JSON; charset=UTF-8", 201),
        ('application/json;charset="utf-8"', 201),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json; charset=latin-1", 415),
        ("", 415),
    ],
)
async def test_the_body_is_json_in_utf8(ann: Api, content_type: str, status: int) -> None:
    await ann("POST", "/statuses", status, content=b'{"text": "x"}', headers={"Content-Type": content_type})


async def test_a_body_without_a_type_is_taken_for_json(ann: Api) -> None:
    await ann("POST", "/statuses", 201, content=b'{"text": "x"}')


async def test_a_body_above_64_kib_is_413(ann: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(65):
            yield b" " * 1024

    await ann("POST", "/statuses", 201, content=b'{"text": "x"}'.ljust(64 * 1024))
    await ann("POST", "/statuses", 413, content=b'{"text": "x"}'.ljust(64 * 1024 + 1))
    refused = await ann("POST", "/statuses", 413, content=chunks())
    assert "connection" not in refused.headers, "what is on its way would reset the connection, and the answer with it"
    await ann("POST", "/statuses", 413, headers={"Content-Length": "9" * 5000})


async def test_of_thousands_of_names_the_doubled_one_is_named(ann: Api) -> None:
    names = [f"n{number}" for number in range(5_000)]
    refused = await ann("GET", "/timeline?" + "&".join([*names, "n7"]), 422)
    assert fields(refused) == {"n7"}


async def test_of_thousands_of_wrong_fields_some_are_named(nobody: Api) -> None:
    refused = await nobody("POST", "/users", 422, json=dict.fromkeys((f"n{number}" for number in range(3_000)), 1))
    assert len(fields(refused)) == 20
    assert "2,982 more" in refused.json()["detail"]  # and there is neither handle nor password


async def test_a_body_with_an_encoding_or_two_types_is_415(ann: Api) -> None:
    text = b'{"text": "x"}'
    refused = await ann("POST", "/statuses", 415, content=text, headers={"Content-Encoding": "gzip"})
    assert refused.headers["accept-encoding"] == "identity"
    await ann("POST", "/statuses", 201, content=text, headers={"Content-Encoding": "identity"})
    twice = [
        ("Authorization", f"Bearer {ann.token}"),
        ("Content-Type", "application/json"),
        ("Content-Type", "text/plain"),
    ]
    assert (await ann.http.post("/api/v1/statuses", content=text, headers=twice)).status_code == 415


async def test_unknown_paths_and_methods(nobody: Api) -> None:
    for path in ("", "/", "/nope", "/users/", "/users/ann/", "/users/a/b/c", "/%00", "//users"):
        await nobody("GET", path, 404)
    refused = await nobody("PATCH", "/statuses/" + NOWHERE, 405)
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD", "DELETE", "OPTIONS"}
    assert (await nobody("BREW", "/users", 405)).headers["allow"] == "POST, OPTIONS"
    assert (await nobody("OPTIONS", "/follows/ann", 204)).headers["allow"] == "PUT, DELETE, OPTIONS"


async def test_head_is_get_without_the_body(ann: Api, nobody: Api) -> None:
    await ann("HEAD", "/me")
    assert (await nobody.http.head("/api/v1/me")).status_code == 401


async def test_too_many_changes() -> None:
    async with opened(Config.from_environment({}, writes_per_minute=2)) as (nobody, _):
        ann, bob = await nobody.person("ann"), await nobody.person("bob")
        await ann.post("one")
        await ann("PUT", "/follows/bob", 204)
        refused = await ann("POST", "/statuses", 429, json={"text": "three"})
        await ann("POST", "/statuses", 429, json={"text": ""})
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert await ann.sees() == ["one"], "reading is not limited"
        await bob.post("somebody else")


async def test_who_is_no_administrator_has_nothing_prepared_for_them() -> None:
    async def prepare(call: Call) -> object:
        raise AssertionError

    async def change(call: Call) -> Reply:
        return Reply(204)

    change_all = Operation("POST", "/api/v1/all", "Change all", change, {204: None}, auth="admin", prepare=prepare)
    async with opened(Config.from_environment({})) as (nobody, app):
        app.router.routes[:0] = routes_of([change_all])
        ann = await nobody.person("ann")
        await ann("GET", "/me")  # remembered by now
        await ann("POST", "/all", 403)


async def test_a_status_that_is_refused_is_neither_counted_nor_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the count of what is posted phase 6 decides for everybody; what is posted again is counted once. It has been
    prepared when it is refused.
    """
    monkeypatch.setattr(Accounts, "good_versions", _taking_turns(Accounts.good_versions))
    async with opened(Config.from_environment({}, writes_per_minute=2)) as (nobody, app):
        ann, bob = await nobody.person("ann"), await nobody.person("bob")
        timelines: Timelines = app.state.services.timelines
        await timelines.change(delivering=[HYBRID.slug])
        for status in (201, 200):
            await ann("POST", "/statuses", status, json={"text": "one"}, headers={"Idempotency-Key": "1"})
        for one in (ann, bob):
            await timelines.force(ObjectId(one.id), True)
        await ann("POST", "/statuses", 429, json={"text": "two"})
        await bob.post("pulled")
        await timelines.store_counts()
        counts = await nobody.stack.db[SETTINGS].find_one({"_id": author.READS})
        assert counts
        assert sum(counts[author.POSTS].values()) == 2
        assert [row["_id"] async for row in nobody.stack.db[HEAVY].find({})] == [ObjectId(bob.id)]


AWAY = [
    ServerSelectionTimeoutError("no primary"),
    QueueDown("redis: no answer"),
    OperationFailure("Could not find host matching read preference", 133),
    OperationFailure("Authentication failed.", 18),
    WriteError("not primary", 10107),
]


@pytest.mark.parametrize("error", AWAY)
async def test_a_server_that_is_away_is_503(ann: Api, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Timelines, "page", fail)
    refused = await ann("GET", "/timeline", 503)
    assert int(refused.headers["retry-after"]) >= 1
    assert str(error) not in refused.text
    assert refused.json()["detail"] == "A server of ours is away or too slow. Nothing is lost; try again."


async def test_a_change_that_is_not_answered_in_time_may_have_been_made(
    ann: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever simply repeats it posts twice."""
    store = Statuses.store

    async def too_late(*args: Any, **options: Any) -> None:
        await store(*args, **options)
        raise OutOfTime("a request has waited for 5 s")

    monkeypatch.setattr(Statuses, "store", too_late)
    key = {"Idempotency-Key": "1"}
    refused = await ann("POST", "/statuses", 503, json={"text": "hello"}, headers=key)
    assert int(refused.headers["retry-after"]) >= 1
    assert "may have been done" in refused.json()["detail"]
    assert "Idempotency-Key" in refused.json()["detail"]
    monkeypatch.undo()
    await ann.json("POST", "/statuses", 200, json={"text": "hello"}, headers=key)
    assert await ann.sees() == ["hello"]


async def test_an_unexpected_error_is_in_the_log_and_not_in_the_answer(
    ann: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*args: object, **options: object) -> None:
        raise RuntimeError("secret")

    caplog.handler.setFormatter(logs.formatter("text"))
    monkeypatch.setattr(Timelines, "page", fail)
    refused = await ann("GET", "/timeline", 500)
    assert "secret" not in refused.text
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info
    assert f"[request {refused.json()['request_id']}]" in caplog.text
    assert refused.json()["request_id"] in refused.json()["detail"]


@pytest.mark.parametrize(
    ("sent", "taken"),
    [(b"a-B_9.z", True), (b"x" * 64, True), (b"x" * 65, False), (b"two words", False), (b"", False), (b"<b>", False)],
)
async def test_a_request_has_a_name(nobody: Api, sent: bytes, taken: bool) -> None:
    """In each answer and on each error; a proxy may give it, if it is short and plain."""
    names = set()
    for path in ("/healthz", "/api/v1/me", "/no/such/page"):
        answer = await nobody.http.get(path, headers={b"X-Request-Id": sent})
        [name] = answer.headers.get_list("x-request-id")
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name)
        assert (name.encode() == sent) is taken
        if answer.status_code == 401:
            assert answer.json()["request_id"] == name
        elif answer.status_code == 404:
            assert f"Request <code>{name}</code>" in answer.text
        names.add(name)
    assert len(names) == (1 if taken else 3)


async def test_pages_have_html_errors(nobody: Api) -> None:
    answer = await nobody.http.get("/no/such/page")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")


async def test_security_headers_are_everywhere() -> None:
    async def broken(request: Request) -> Response:
        raise RuntimeError

    async with opened(Config.from_environment({})) as (nobody, app):
        app.router.routes.insert(0, Route("/broken", broken))
        for path in ("/healthz", "/api/v1/me", "/api/v1/nope", "/nope", "/broken"):
            headers = (await nobody.http.get(path)).headers
            assert headers["content-security-policy"].startswith("default-src 'self';")
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers
        assert (await nobody.http.post("/healthz", content=b" " * 70_000)).status_code == 413


# Health


async def test_health(nobody: Api) -> None:
    answer = await nobody.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert_problem(await nobody.http.post("/healthz"))


async def test_ready_when_every_server_answers(nobody: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = await nobody.http.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert {name: server["status"] for name, server in answer.json()["servers"].items()} == {
        "mongodb": "ok",
        "redis": "ok",
        "memcached": "ok",
    }

    async def away(self: DeliveryQueue) -> str:
        raise QueueDown

    monkeypatch.setattr(DeliveryQueue, "ping", away)
    monkeypatch.setattr(sampled, "FRESH_S", 0)
    assert (await nobody.http.get("/readyz")).status_code == 200, "the last sample, while another is taken"
    monkeypatch.setattr(sampled, "STALE_S", 0)
    answer = await nobody.http.get("/readyz")
    assert answer.status_code == 503
    assert_problem(answer, "servers")
    assert answer.json()["servers"]["redis"] == {"status": "away", "version": None}
    assert answer.json()["servers"]["mongodb"]["status"] == "ok"
    assert "retry-after" in answer.headers


async def test_ready_asks_for_the_servers_and_the_stream_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """While MongoDB is away each takes as long as a request may, and whoever asks has not twice the patience."""
    both = asyncio.Barrier(2)

    async def together(*_: object) -> dict[str, str]:
        await both.wait()
        return {}

    monkeypatch.setattr(DeliveryQueue, "ping", together)
    monkeypatch.setattr(health, "stream_state", together)
    async with asyncio.timeout(60):
        assert (await site.browser().client.get("/readyz")).status_code == 200


async def test_a_mongodb_that_refuses_us_is_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while its password is being changed."""

    async def refuses(*_: object) -> None:
        raise OperationFailure("Authentication failed.", 18)

    for name in ("FRESH_S", "STALE_S"):
        monkeypatch.setattr(sampled, name, 0)
    monkeypatch.setattr(type(site.stack.db), "command", refuses)
    monkeypatch.setattr(sampler, "stream_state", refuses)
    monkeypatch.setattr(Timelines, "state", refuses)
    client = site.browser().client
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["servers"]["mongodb"]["status"]) == (503, "away")
    assert (await scraped(client))[_series("feedlab_server_up", {"server": "mongodb"})] == 0


async def test_a_silent_change_stream_is_not_ready(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a majority, or without a worker. It concerns only who delivers by it."""
    for name in ("FRESH_S", "STALE_S"):
        monkeypatch.setattr(sampled, name, 0)
    client, lease = site.browser().client, StreamLease(site.stack, "host:1")
    assert await lease.take()
    await lease.renew({"_data": "a"}, 0.25)

    async def asked() -> tuple[int, str | None, list[str]]:
        ready, metrics = await client.get("/readyz"), await client.get("/metrics")
        lines = [line for line in metrics.text.splitlines() if line.startswith("feedlab_stream")]
        return ready.status_code, ready.json()["servers"].get("stream", {}).get("status"), lines

    assert await asked() == (200, None, [])
    await site.timelines.change(delivering=[STREAM.slug])
    site.clock.advance(5)
    silent, lag = 'feedlab_stream_silent_seconds{owner="host:1"}', 'feedlab_stream_lag_seconds{owner="host:1"} 0.25'
    assert await asked() == (200, "ok", [f"{silent} 5.0", lag])
    site.clock.advance(11)
    assert await asked() == (503, "silent", [f"{silent} 16.0", lag])
    await lease.renew({"_data": "b"})
    assert (await asked())[:2] == (200, "ok")


async def scraped(client: httpx.AsyncClient) -> dict[str, float]:
    """Of the process: what other tests have counted before is there too."""
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {_series(each.name, each.labels): each.value for family in families for each in family.samples}


def _series(name: str, labels: dict[str, str]) -> str:
    return name + json.dumps(labels, sort_keys=True)


async def test_metrics_count_by_template(ann: Api) -> None:
    before = await scraped(ann.http)
    for status in (201, 200):
        await ann("POST", "/statuses", status, json={"text": "hello"}, headers={"Idempotency-Key": "one"})
    await ann("GET", "/timeline", params={"phase": "query"})
    await ann("GET", "/users/nobody", 404)
    await ann("GET", f"/nowhere/{ObjectId()}", 404)
    counted = {name: value - before.get(name, 0) for name, value in (await scraped(ann.http)).items()}

    def of(name: str, **labels: str) -> float:
        return counted[_series(f"feedlab_{name}", labels)]

    assert of("posts_total") == 1
    assert of("timeline_reads_total", phase="query", source="query") == 1
    assert of("http_requests_total", method="GET", route="/api/v1/users/{handle}", status="404") == 1
    assert of("http_requests_total", method="GET", route="/api/v1", status="404") == 1
    assert of("http_request_duration_seconds_count", route="/api/v1/statuses") == 2
    assert of("http_request_duration_seconds_bucket", route="/api/v1/statuses", le="+Inf") == 2
    assert of("server_commands_total", server="mongodb") > 3


@pytest.mark.parametrize("path", ["/metrics", "/readyz"])
async def test_the_servers_are_asked_once_however_many_ask_us(
    nobody: Api, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    asked = Counter[str]()

    def slow(name: str) -> Callable[[object], Awaitable[dict[str, int]]]:
        async def ask(self: object) -> dict[str, int]:
            asked[name] += 1
            await asyncio.sleep(0)
            return {}

        return ask

    for name in ("FRESH_S", "STALE_S"):
        monkeypatch.setattr(sampled, name, 600)
    for name in ("depth", "ping"):
        monkeypatch.setattr(DeliveryQueue, name, slow(name))
    await asyncio.gather(*(nobody.http.get(path) for _ in range(50)))
    assert set(asked.values()) == {1}


async def test_what_is_owed_is_told_of_every_consumer(site: Site) -> None:
    """Pending and queued, and how old the oldest is: of the notifications too."""
    ann = await site.browser().sign_up("ann")
    await site.browser().sign_up("bob")
    await ann.act("bob", "follow")
    await ann.post("hello @bob")
    assert re.search(r"<code>notifications</code>.*?>2</td>.*?>2</td></tr>", await ann.open("/phases"), re.DOTALL)
    site.clock.advance(5)
    text = (await ann.client.get("/metrics")).text
    assert 'feedlab_pending_deliveries{consumer="notifications"} 2.0' in text
    assert 'feedlab_queued_jobs{consumer="notifications"} 2.0' in text
    assert 'feedlab_pending_deliveries{consumer="cache"} 1.0' in text
    assert 'feedlab_oldest_pending_seconds{consumer="query"} 0.0' in text
    [age_s] = re.findall(r'feedlab_oldest_pending_seconds{consumer="notifications"} (\S+)', text)
    assert 5 <= float(age_s) <= 6
    assert 'feedlab_dead_letters{consumer="notifications"} 0.0' in text
    for server in ("mongodb", "redis", "memcached"):
        assert f'feedlab_server_up{{server="{server}"}} 1.0' in text


async def test_a_kept_timeline_is_looked_up_and_rebuilt(site: Site) -> None:
    """And what is delivered is timed."""
    ann, names = await site.browser().sign_up("ann"), {}
    await ann.post("hello")
    await drain_queues(site.timelines)
    for name, labels in (
        ("kept_timeline_rebuilds_total", {"phase": "cache"}),
        ("kept_timeline_lookups_total", {"phase": "cache", "result": "hit"}),
        ("kept_timeline_lookups_total", {"phase": "cache", "result": "miss"}),
        ("delivery_lag_seconds_count", {"consumer": "cache"}),
    ):
        names[_series(f"feedlab_{name}", labels)] = labels.get("result", name)
    await site.timelines.forget_lists()
    site.clock.advance(10)
    before = await scraped(ann.client)
    await ann.open("/?phase=cache")
    await ann.open("/?phase=cache")
    await ann.post("hello again")
    await drain_queues(site.timelines)
    after = await scraped(ann.client)
    grown = {told: after[name] - before.get(name, 0) for name, told in names.items()}
    assert grown == {"kept_timeline_rebuilds_total": 1, "miss": 1, "hit": 3, "delivery_lag_seconds_count": 1}


async def test_metrics_without_the_servers(ann: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Timelines) -> None:
        raise QueueDown

    monkeypatch.setattr(Timelines, "state", fail)
    answer = await ann.http.get("/metrics")
    assert answer.status_code == 200
    assert "feedlab_pending_deliveries{" not in answer.text


async def test_answers_are_compact_json_in_utf8(ann: Api) -> None:
    await ann.post("é 👍")
    answer = await ann("GET", "/timeline")
    assert "é 👍" in answer.content.decode()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    json.loads(answer.content)
