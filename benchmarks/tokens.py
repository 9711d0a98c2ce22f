"""Tokens for many people at once: what `Accounts.new_token` leaves in the database, without a transaction for each."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

from bson import Binary, ObjectId
from pymongo import UpdateMany

from app.edges import VERSIONS, new_versions, version_key
from app.models import Token
from app.stack import Stack
from app.stack.mongodb.write import housekeeping

TOKENS = Token.Settings.name
AT_ONCE = 5_000  # people


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
        versions = [
            UpdateMany(
                version_key(person),
                {"$set": {"tokens": ObjectId()}, "$setOnInsert": new_versions(person)},
                upsert=True,
            )
            for person in people
        ]
        return cls(tokens, documents, versions)


async def give(stack: Stack, people: Sequence[ObjectId]) -> dict[ObjectId, str]:
    """Give each of these people a token, past Beanie, which knows one database in a process; return the tokens."""
    expires_at, tokens = stack.clock.now() + timedelta(days=stack.config.token_days), dict[ObjectId, str]()
    for at in range(0, len(people), AT_ONCE):
        some = people[at : at + AT_ONCE]
        given = Given.to(some, expires_at)
        with housekeeping():
            await stack.db[TOKENS].insert_many(given.documents)
            await stack.db[VERSIONS].bulk_write(given.versions)
        tokens |= zip(some, given.tokens, strict=True)
    return tokens


__all__ = ["TOKENS", "VERSIONS", "Given", "give"]
