"""The OpenAPI 3.1 document, made from the table of operations."""

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app import __version__
from app.web import schemas
from app.web.api_operation import Operation
from app.web.problems import MEDIA_TYPE, SAFE, SENTENCES, away

REF = "#/components/schemas/{model}"
BYTES = {"schema": {"type": "string", "format": "binary"}}
BODY_TOO_LATE = {408: "The body did not come to its end in time."}
BODY_REFUSALS = {400: "The body is not JSON in UTF-8.", **BODY_TOO_LATE, 415: "The body is not application/json."}
ALWAYS = {413: SENTENCES[413]}
RETRY_AFTER = {"Retry-After": {"description": "seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}}
CHALLENGE = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
HEADERS: dict[int, dict[str, Any]] = {401: CHALLENGE, 429: RETRY_AFTER, 503: RETRY_AFTER}
SECURITY: dict[str, list[dict[str, list[str]]]] = {"none": [], "ticket": [{"token": []}, {"ticket": []}]}

# Anything else in these places is answered with 404: it names nobody and nothing.
PATH_PARAMETERS = {
    "handle": {"pattern": schemas.HANDLE_PATTERN, "description": "a handle, in any case"},
    "conversation": {"pattern": schemas.ID_PATTERN, "description": "the id of a conversation"},
    "seq": {"pattern": schemas.SEQ_PATTERN, "description": "the number of a message"},
    "upload": {"pattern": schemas.UPLOAD_PATTERN, "description": "from an `upload_url`"},
    "image": {"pattern": schemas.ID_PATTERN, "description": "the id of a picture"},
    "id": {"pattern": schemas.ID_PATTERN, "description": "the id of a status"},
}


def document(operations: Sequence[Operation], prefix: str) -> dict[str, Any]:
    """Return the OpenAPI document of these operations, which stand under `prefix`."""
    schemas_of = _Schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Feedlab",
            "version": __version__,
            "summary": "A friend-status timeline, built six times.",
            "description": "Times are RFC 3339 in UTC with milliseconds. Every error is a problem (RFC 9457).",
        },
        "servers": [{"url": prefix}],
        "paths": paths,
        "components": {
            "schemas": schemas_of.definitions,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }


class _Schemas:
    """The models of a table, as JSON schemas by reference."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        asked = {operation.body for operation in operations if operation.body}
        answered = {model for operation in operations for model in operation.answers.values() if model}
        modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in asked]
        modes += [(model, "serialization") for model in answered | {schemas.ProblemDetails}]
        self._found, definitions = models_json_schema(
            sorted(modes, key=lambda pair: pair[0].__name__), ref_template=REF
        )
        self.definitions = definitions["$defs"]

    def content(self, model: type[BaseModel], mode: JsonSchemaMode, media_type: str) -> dict[str, Any]:
        return {media_type: {"schema": self._found[model, mode]}}


def _operation(operation: Operation, collected: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.path.split("/")[1]],
        "parameters": list(_parameters(operation)),
        "responses": _responses(operation, collected),
        "security": SECURITY.get(operation.auth, [{"token": []}]),
    }
    if operation.body:
        content = collected.content(operation.body, "validation", "application/json")
        described["requestBody"] = {"required": True, "content": content}
    elif operation.takes:
        described["requestBody"] = {"required": True, "content": {operation.takes: BYTES}}
    return described


def _parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", operation.path):
        about = PATH_PARAMETERS[name]
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": about["description"],
            "schema": {"type": "string", "pattern": about["pattern"]},
        }
    for place, model in (("query", operation.query), ("header", operation.headers)):
        for name, schema in (model.model_json_schema()["properties"] if model else {}).items():
            yield _optional_parameter(place, name, schema)


def _optional_parameter(place: str, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Describe an optional parameter.

    It is None here when left out, but null cannot be sent: only its type is documented.
    """
    described: dict[str, Any] = {"name": name, "in": place, "required": False}
    if "description" in schema:
        described["description"] = schema["description"]
    sent = next((each for each in schema.get("anyOf", []) if each.get("type") != "null"), schema)
    described["schema"] = {key: value for key, value in sent.items() if key not in ("title", "description")}
    return described


def _responses(operation: Operation, collected: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in operation.answers.items():
        responses[str(status)] = {"description": HTTPStatus(status).phrase}
        if model:
            responses[str(status)]["content"] = collected.content(model, "serialization", "application/json")
        elif operation.sends:
            responses[str(status)]["content"] = dict.fromkeys(operation.sends, BYTES)
        elif status == HTTPStatus.OK:
            responses[str(status)]["content"] = {"application/json": {"schema": {"type": "object"}}}
    for status, description in sorted(_refusals(operation).items()):
        responses[str(status)] = {
            "description": description,
            "content": collected.content(schemas.ProblemDetails, "serialization", MEDIA_TYPE),
        }
        if status in HEADERS:
            responses[str(status)]["headers"] = HEADERS[status]
    return responses


def _refusals(operation: Operation) -> dict[int, str]:
    refusals = ALWAYS | {503: away(operation.method)}
    if operation.auth != "none":
        refusals[401] = "No token, or a bad one."
        if operation.method not in SAFE:
            refusals[429] = "Too many changes in one minute."
    if operation.auth == "admin":
        refusals[403] = "Only administrators may do this."
    if operation.body:
        refusals |= BODY_REFUSALS
    if operation.takes:
        refusals |= {400: "The body ended early.", **BODY_TOO_LATE}
    if operation.body or operation.query or operation.headers:
        refusals[422] = "Some fields are wrong."
    return refusals | dict(operation.refusals)
