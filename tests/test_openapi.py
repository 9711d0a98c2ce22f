"""The published document is valid, complete and true: a fuzzer finds no 5xx and no answer that it does not describe."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.schemas import BaseSchema

from app.config import Config
from app.inbox import pictures
from app.stack import connected
from app.web import create_app, protocol
from app.web.api import OPERATIONS, PREFIX
from app.web.openapi import document
from app.web.schemas import NewStatus, SignUp
from phases.timelines import Timelines
from tests.world import STAND_INS

SIGN_UP = {"handle": "ann", "password": "correct horse"}
UNLIMITED = dict.fromkeys(("sign_ins_per_minute", "sign_ups_per_minute", "failed_sign_ins_per_handle"), 1_000_000)
EXAMPLES = 12  # per operation, after the examples that the schema's corners give
SEED = 20261120


@dataclass
class Server:
    """A real server on the memory stack, and a person who is signed in."""

    url: str
    headers: dict[str, str]
    status: str = ""  # of this person
    conversation: str = ""  # of the two, with a message of each


async def _serve(listening: socket.socket, started: "Future[uvicorn.Server]") -> None:
    config = Config.from_environment({}, demo=True, failed_sign_ins_per_minute=10_000, **UNLIMITED)
    async with connected(STAND_INS, config) as stack:
        app = create_app(stack, await Timelines.open(stack))
        server = uvicorn.Server(uvicorn.Config(app, ws="none", lifespan="off", log_config=None, server_header=False))
        started.set_result(server)
        await server.serve(sockets=[listening])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        started: Future[uvicorn.Server] = Future()
        thread = threading.Thread(target=lambda: asyncio.run(_serve(listening, started)))
        thread.start()
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with httpx.Client(base_url=url + PREFIX, timeout=10) as http:
                yield _furnished(url, http)
        finally:
            started.result(10).should_exit = True
            thread.join(10)


def _furnished(url: str, http: httpx.Client) -> Server:
    """Two people who follow each other, and a status of each."""
    for handle in ("ann", "bob"):
        assert http.post("/users", json=SIGN_UP | {"handle": handle}).status_code == 201
    tokens = [http.post("/tokens", json=SIGN_UP | {"handle": handle}).json()["token"] for handle in ("bob", "ann")]
    server = Server(url, {})
    for token, other in zip(tokens, ("ann", "bob"), strict=True):
        server.headers = {"Authorization": f"Bearer {token}"}
        assert http.put(f"/follows/{other}", headers=server.headers).status_code == 204
        server.status = http.post("/statuses", json={"text": "hello"}, headers=server.headers).json()["id"]
        server.conversation = http.put(f"/conversations/{other}", headers=server.headers).json()["id"]
        hello = {"text": "hello", "client_id": "hello"}
        sent = http.post(f"/conversations/{server.conversation}/messages", json=hello, headers=server.headers)
        assert sent.status_code == 201
    return server


def _described() -> BaseSchema:
    config = SchemathesisConfig(seed=SEED)
    config.projects.default.generation.update(deterministic=True, max_examples=EXAMPLES)
    all_of_it = schemathesis.openapi.from_dict(document(OPERATIONS, PREFIX), config=config)
    # One has no end, the other is a WebSocket: tests/live/test_wire.py
    return all_of_it.exclude(path="/live").exclude(path="/live/socket")


described = _described()


def test_the_published_document_is_the_generated_one(server: Server) -> None:
    answer = httpx.get(f"{server.url}{PREFIX}/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == document(OPERATIONS, PREFIX)


def test_the_document_is_valid_openapi() -> None:
    described.validate()
    for schema in described.raw_schema["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema, registry=None)


@pytest.mark.parametrize(
    "said",
    [protocol.NO_REQUEST, protocol.NO_HANDSHAKE, protocol.TOO_LARGE, protocol.TOO_LATE, protocol.BODY_TOO_LATE],
    ids=["no request", "no handshake", "too large", "too late", "body too late"],
)
def test_what_is_refused_before_it_is_a_request_is_a_problem_as_described(said: bytes) -> None:
    problem = document(OPERATIONS, PREFIX)["components"]["schemas"]["ProblemDetails"]
    told = json.loads(said.partition(b"\r\n\r\n")[2])
    assert set(problem["required"]) <= told.keys() <= problem["properties"].keys()


def test_every_operation_is_described_with_its_errors() -> None:
    paths = document(OPERATIONS, PREFIX)["paths"]
    described = {(method.upper(), path): about for path, methods in paths.items() for method, about in methods.items()}
    assert described.keys() == {(operation.method, operation.path) for operation in OPERATIONS}
    assert len({about["operationId"] for about in described.values()}) == len(described)
    for (method, path), about in described.items():
        needs_token = about["security"] != []
        assert ("401" in about["responses"]) == (needs_token or path == "/tokens"), path
        assert ("400" in about["responses"]) == ("requestBody" in about), path
        if "{" in path:
            assert "404" in about["responses"], path
        if method != "GET":
            assert "429" in about["responses"], path


def test_the_table_is_what_was_promised() -> None:
    promised = """
        GET /timeline
        POST /timeline/refresh
        POST /users
        POST /tokens
        DELETE /tokens/current
        GET /me
        PUT /me
        PUT /me/password
        GET /me/export
        DELETE /me
        GET /users/{handle}
        PUT /follows/{handle}
        DELETE /follows/{handle}
        PUT /blocks/{handle}
        DELETE /blocks/{handle}
        PUT /circle/{handle}
        DELETE /circle/{handle}
        PUT /mutes/{handle}
        DELETE /mutes/{handle}
        GET /mutes
        GET /blocks
        GET /circle
        GET /users/{handle}/followers
        GET /users/{handle}/following
        POST /statuses
        GET /statuses/{id}
        DELETE /statuses/{id}
        PUT /statuses/{id}/like
        DELETE /statuses/{id}/like
        GET /users/{handle}/statuses
        GET /notifications
        PUT /notifications/read
        PUT /conversations/{handle}
        GET /conversations
        GET /conversations/{conversation}/messages
        POST /conversations/{conversation}/messages
        DELETE /conversations/{conversation}/messages/{seq}
        PUT /conversations/{conversation}/receipt
        PUT /conversations/{conversation}/silence
        DELETE /conversations/{conversation}/silence
        POST /uploads
        PUT /uploads/{upload}
        GET /images/{image}
        POST /live/tickets
        GET /live
        GET /live/socket
        GET /phases
        PUT /phases
        GET /openapi.json
    """
    assert [f"{operation.method} {operation.path}" for operation in OPERATIONS] == [
        line.strip() for line in promised.split("\n") if line.strip()
    ]


@pytest.mark.parametrize(
    "text", ["a", "a b", " a\n", "\x1f\x85a\u3000", "x" * 500, " " * 9 + "x" * 500, "👍" * 500, "\u200bx"]
)
def test_the_pattern_of_texts_lets_through_what_the_code_does(text: str) -> None:
    assert re.search(_text_pattern(), text)
    assert NewStatus.model_validate({"text": text}).text == text.strip()


@pytest.mark.parametrize(
    "text", ["", " \n", "\x1c\x1f", "\u3000", "x" * 501, "\0", "a\0b", "\u200b", " \ufeff\U000e0100"]
)
def test_the_pattern_of_texts_refuses_what_the_code_does(text: str) -> None:
    assert not re.search(_text_pattern(), text)
    with pytest.raises(ValueError, match="text"):
        NewStatus.model_validate({"text": text})


def _text_pattern() -> str:
    return str(NewStatus.model_json_schema()["properties"]["text"]["pattern"])


def test_what_may_be_left_out_is_not_required() -> None:
    assert SignUp.model_json_schema()["required"] == ["handle", "password"]
    assert NewStatus.model_json_schema()["required"] == ["text"]


@described.parametrize()
@settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_no_undocumented_answer(case: Any, server: Server) -> None:
    if case.meta and case.meta.generation.mode.is_positive:
        _aim(case, server)
    headers = {} if _lacks_a_token(case) else dict(server.headers)
    if case.operation.path == "/tokens/current" and case.method == "DELETE":
        given = httpx.post(f"{server.url}{PREFIX}/tokens", json=SIGN_UP).json()
        headers = {"Authorization": f"Bearer {given['token']}"}
    case.call_and_validate(base_url=server.url + PREFIX, headers=headers)


def _lacks_a_token(case: Any) -> bool:
    """The fault of the case may be that, and nothing else that is sent."""
    headers = case.meta and case.meta.components.get(ParameterLocation.HEADER)
    return bool(headers and headers.mode.is_negative)


def _aim(case: Any, server: Server) -> None:
    """Let every other valid case meet somebody who exists."""
    existing = {"handle": "bob", "id": server.status, "conversation": server.conversation, "seq": "2"}
    for name in case.path_parameters or {}:
        if name in existing and sum(map(ord, str(case.path_parameters[name]))) % 2:
            case.path_parameters[name] = existing[name]
    if not isinstance(case.body, dict):
        return
    if "image" in case.body and case.path_parameters.get("conversation") == server.conversation:
        case.body = {name: given for name, given in case.body.items() if name != "image"} | {"text": "hello"}
    if case.operation.path.endswith("/receipt"):  # there are two messages
        case.body = {name: mark and mark % 3 for name, mark in case.body.items()}


def test_the_limits_of_a_picture_are_said() -> None:
    said = document(OPERATIONS, PREFIX)["paths"]["/uploads/{upload}"]["put"]["responses"]["422"]["description"]
    for limit in (pictures.MOST_PIXELS, pictures.MOST_PIXELS_MOVING, pictures.MOST_FRAMES):
        assert re.search(rf"\b{limit:,}\b", said)
    for size in (pictures.LARGEST, pictures.LARGEST_KEPT):
        assert f" {size >> 20} MB" in said
