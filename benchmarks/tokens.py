"""Tokens for many people at once: what `Accounts.new_token` leaves in the database, without a transaction for each."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from bson import Binary, ObjectId
from pymongo import UpdateMany

from app.edges import VERSIONS
from app.models import Token

TOKENS = Token.Settings.name


class Given(NamedTuple):
    """New tokens, one for each person, and what has to be written of them: first to TOKENS, then to VERSIONS.

    With a version somebody's tokens are remembered. Without one each is looked up by each request, like those from
    before there were versions.
    """

    tokens: list[str]
    documents: list[dict[str, Any]]
    versions: list[UpdateMany]  # of one document each: mongomock knows no UpdateOne of today

    @classmethod
    def to(cls, people: Sequence[ObjectId], expires_at: datetime) -> "Given":
        tokens = [secrets.token_urlsafe(32) for _ in people]
        documents = [
            {
                "_id": ObjectId(),
                "digest": Binary(sha256(token.encode()).digest()),
                "user_id": person,
                "expires_at": expires_at,
            }
            for person, token in zip(people, tokens, strict=True)
        ]
        versions = [UpdateMany({"_id": person}, {"$set": {"tokens": ObjectId()}}, upsert=True) for person in people]
        return cls(tokens, documents, versions)


__all__ = ["TOKENS", "VERSIONS", "Given"]
