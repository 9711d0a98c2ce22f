"""Accounts: signing up, signing in, bearer tokens. Passwords are kept as argon2id, tokens as SHA-256.

How many passwords are hashed at the same time is limited per `Accounts`, of which a web process has one. How often
somebody may try is counted for all processes together.
"""

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple, TypeVar
from unicodedata import category

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from bson import Binary, ObjectId
from cachetools import LRUCache
from pymongo.errors import DuplicateKeyError

from app.departures import depart, end_conversations, take_likes_back
from app.edges import Versions, change_tokens, versions_in, versions_of
from app.errors import Conflict, Invalid, NoAccount, TooMany, WrongPassword
from app.models import Account, Ticket, User
from app.stack import Hint, Stack
from app.stack.mongodb.find import Find, rows, together
from app.stack.mongodb.transaction import Transaction
from app.stack.mongodb.write import insert
from app.stack.rates import Rate
from app.text import checked

HANDLE = re.compile(r"[a-z0-9_]{1,30}")
NAME_LENGTH = 100  # code points
PASSWORD_LENGTHS = (8, 200)  # code points

# argon2id with 19 MiB, 2 passes, 1 lane. Source: OWASP Password Storage Cheat Sheet.
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
HASHED_AT_ONCE = 2  # 38 MiB and two cores at most; whoever comes later waits
WAITING_FOR_A_HASH = 200  # more are refused
DEVICE_DAYS = 30  # a device or address from which somebody has signed in is known for so long beyond the session
TOKENS_EACH = 100  # of one person
TICKET_S = 30
HOLDERS_REMEMBERED = 10_000  # about 4 MB

WRONG = "The handle and the password do not go together."

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *args: object) -> T:
    """Call in a thread, and wait for it even when the asker goes away: a limit counts threads, not askers."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *args))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def normal_handle(handle: str) -> str | None:
    """Return the handle in lower case; None when nobody can have it. Only ASCII is folded: the Kelvin sign is no k."""
    folded = handle.lower() if handle.isascii() else handle
    return folded if HANDLE.fullmatch(folded) else None


def checked_handle(handle: str) -> str:
    """Return the handle as it is kept. Raises Invalid."""
    normal = normal_handle(handle)
    if normal is None:
        raise Invalid("handle", "A handle has 1 to 30 characters: letters a to z, digits and underscores.")
    return normal


def checked_name(name: str) -> str:
    """Return the name, trimmed; nothing but spaces is no name, which is allowed. Raises Invalid."""
    trimmed = name.strip() and checked("name", name, NAME_LENGTH)
    if any(category(character) in ("Cc", "Zl", "Zp") for character in trimmed):
        raise Invalid("name", "A name is one line of Unicode text, without control characters.")
    return trimmed


def checked_password(password: str) -> str:
    """Return the password, unchanged. Raises Invalid."""
    shortest, longest = PASSWORD_LENGTHS
    if not shortest <= len(password) <= longest:
        raise Invalid("password", f"A password has {shortest} to {longest} characters.")
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise Invalid("password", "A password is Unicode text.")
    return password


@cache
def _nobodys_hash() -> str:
    """Return what a password is checked against when there is no such person, so that it takes as long."""
    return HASHER.hash(secrets.token_urlsafe())


def _matches(password_hash: str | None, password: str) -> bool:
    nobodys_hash = _nobodys_hash()  # asked for every time: the first call costs a hash of its own
    try:
        HASHER.verify(password_hash or nobodys_hash, password.encode(errors="surrogatepass"))
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


def _digest(token: str) -> Binary:
    # As Binary, which Beanie makes of it too: mongomock finds no bytes where a Binary is stored.
    return Binary(digest_of(token))


def digest_of(token: str) -> bytes:
    """Return the SHA-256 of a token, for where the token itself must not be kept."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


class Caller(NamedTuple):
    """Whoever asks, as far as the edge can tell. `device`: a secret of their browser; "" where it sent none."""

    address: str = ""
    device: str = ""


OURSELVES = Caller()


class Holder(NamedTuple):
    """The person of a token, when it expires, and the version of the person's tokens when it was looked up; None for
    tokens from before there were versions, which are looked up each time.
    """

    account: Account
    expires_at: datetime
    version: ObjectId | None

    def is_of(self, versions: Versions) -> bool:
        return self.version is not None and self.version == versions.tokens


class Accounts:
    """Everybody's accounts on one stack, and what is remembered between two requests."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._clock, self._config = stack, stack.clock, stack.config
        self._hashing = asyncio.Semaphore(HASHED_AT_ONCE)
        self._waiting = 0
        rate, config, failed = stack.rates.rate, stack.config, "Too many failed attempts to sign in."
        self._sign_ups = rate("sign-ups", config.sign_ups_per_minute, "Too many people sign up from where you are.")
        self._sign_ins = rate("sign-ins", config.sign_ins_per_minute, "Too many people sign in from where you are.")
        self._failures = rate("failures", config.failed_sign_ins_per_minute, failed)
        self._failures_of_handle = rate("failures of handle", config.failed_sign_ins_per_handle, failed)
        self._known = rate("known", 1, "", minutes=(config.token_days + DEVICE_DAYS) * 24 * 60)
        self._holders: LRUCache[bytes, Holder] = LRUCache(HOLDERS_REMEMBERED)  # by the digest of their token

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_FOR_A_HASH:
            raise TooMany("Too many people are signing in at this moment.", 5)
        self._waiting += 1
        try:
            async with self._hashing:
                yield
        finally:
            self._waiting -= 1

    async def sign_up(self, handle: str, name: str | None, password: str, caller: Caller = OURSELVES) -> User:
        """Make a new person, who is called like the handle when no name is given.

        Raises Invalid for a wrong field, Conflict when the handle is taken (in any case), TooMany under a rush.
        """
        handle = checked_handle(handle)
        name = checked_name(name or "") or handle
        password = checked_password(password)
        await self._sign_ups.count(caller.address)
        taken = Conflict(f"The handle {handle} is taken.")
        if await User.find_one({"handle": handle}):
            raise taken
        async with self._turn():
            password_hash = await in_thread(HASHER.hash, password)
        user = User(
            _id=self._clock.new_id(),
            handle=handle,
            name=name,
            password_hash=password_hash,
            created_at=self._clock.now(),
        )
        try:
            await insert(self._stack.db, user)
        except DuplicateKeyError:
            raise taken from None
        await self._get_to_know(handle, caller)
        return user

    async def sign_in(self, handle: str, password: str, caller: Caller = OURSELVES) -> tuple[str, datetime]:
        """Return a new token and when it expires.

        Raises WrongPassword, the same for an unknown handle and after the same work, and TooMany after too many
        failures: from this device or address, or from all those that the person has never signed in from.
        """
        user = await self._proven(handle, password, caller)
        return await self.new_token(user.id, user.password_hash)

    async def change_password(self, me: Account, token: str, old: str, new: str, caller: Caller = OURSELVES) -> None:
        """Change the password, and end all other tokens than this one. Raises Invalid, WrongPassword and TooMany."""
        new = checked_password(new)
        user = await self._proven(me.handle, old, caller)
        async with self._turn():
            password_hash = await in_thread(HASHER.hash, new)
        proven = {"_id": user.id, "password_hash": user.password_hash}

        async def change(inside: Transaction) -> None:
            if not await inside["users"].update_one(proven, {"$set": {"password_hash": password_hash}}, upsert=False):
                raise WrongPassword(WRONG)
            await inside["tokens"].delete_many({"user_id": user.id, "digest": {"$ne": _digest(token)}})

        await change_tokens(self._stack.db, me.id, change)
        self._stack.bus.tell(Hint("tokens", me.id))

    async def hide(self, me: Account, hidden: bool) -> None:
        """Hide from everybody whether this person is here; or show it to their mutual followers. Raises NoAccount."""
        there, nobody = {"_id": me.id, "deleted": {"$exists": False}}, {"presence": "nobody"}
        change = {"$set": nobody} if hidden else {"$unset": nobody}
        if not (await self._stack.db["users"].update_one(there, change)).matched_count:
            raise NoAccount(me.id)
        self._stack.bus.tell(Hint("presence", me.id))

    async def delete(self, me: Account, password: str, caller: Caller = OURSELVES) -> None:
        """Delete the account: from now on nothing of it is visible, its tokens are over, its likes are not counted, and
        its conversations have ended.
        Raises WrongPassword, TooMany, and NoAccount where another call has been faster.
        """
        await self._proven(me.handle, password, caller)
        await depart(self._stack.db, self._clock, me.id)
        self._stack.bus.tell(Hint("named", me.id), Hint("tokens", me.id))
        await take_likes_back(self._stack, me.id)
        await end_conversations(self._stack, me.id)

    async def _proven(self, handle: str, password: str, caller: Caller) -> User:
        """Return the person who has this handle and password. Raises WrongPassword and TooMany."""
        await self._sign_ins.count(caller.address)
        normal = normal_handle(handle)
        # Attempts are counted by what was typed: that says nothing about who exists.
        tried = normal or hashlib.sha256(handle.encode(errors="surrogatepass")).hexdigest()
        here = [place for place in (caller.device, caller.address) if place]
        known = [place for place in here if await self._known.reached(tried, place)]
        place = known[0] if known else caller.address
        limits: list[tuple[Rate, tuple[str, ...]]] = [(self._failures, (tried, place))]
        if not known:
            limits.append((self._failures_of_handle, (tried,)))
        for limit, who in limits:
            await limit.check(*who)
        user = await User.called(normal) if normal else None
        async with self._turn():
            for limit, who in limits:  # others who waited may have failed meanwhile
                await limit.check(*who)
            if not await in_thread(_matches, user and user.password_hash, password[: PASSWORD_LENGTHS[1] + 1]):
                for limit, who in limits:
                    await limit.hit(*who)
                raise WrongPassword(WRONG)
        assert user
        await self._get_to_know(tried, caller)
        return user

    async def _get_to_know(self, handle: str, caller: Caller) -> None:
        for place in caller:
            if place:
                await self._known.renew(handle, place)

    async def new_token(self, user_id: ObjectId, password_hash: str | None = None) -> tuple[str, datetime]:
        """Return a bearer token of 256 random bits, and when it expires. It ends the oldest of somebody who has too
        many.

        `password_hash`: what the password was found to fit. Raises WrongPassword where it is another one by now, or the
        account is deleted: either ends the tokens that there are, and writes the same document.
        """
        token = secrets.token_urlsafe(32)
        expires_at = self._clock.now() + timedelta(days=self._config.token_days)
        new = {"_id": ObjectId(), "digest": _digest(token), "user_id": user_id, "expires_at": expires_at}
        proven = {"_id": user_id, "deleted": {"$exists": False}}
        proven |= {"password_hash": password_hash} if password_hash else {}

        async def give(inside: Transaction) -> None:
            if not await inside["users"].update_one(proven, {"$inc": {"signed_in": 1}}, upsert=False):
                raise WrongPassword(WRONG)
            await inside["tokens"].insert_one(new)

        await change_tokens(self._stack.db, user_id, give)
        oldest = self._stack.db["tokens"].find({"user_id": user_id}, {"_id": 1}).sort("_id", -1).skip(TOKENS_EACH)
        if ids := [each["_id"] for each in await oldest.to_list(TOKENS_EACH)]:

            async def end(inside: Transaction) -> None:
                await inside["tokens"].delete_many({"_id": {"$in": ids}})

            await change_tokens(self._stack.db, user_id, end)
            self._stack.bus.tell(Hint("tokens", user_id))
        return token, expires_at

    def remembered(self, token: str) -> Holder | None:
        """Return whose token it was the last time. Whether it still is one, `authenticate` knows, or `is_good`."""
        holder: Holder | None = self._holders.get(digest_of(token))
        return holder

    async def authenticate(self, token: str) -> Account | None:
        """Return the owner of the token, or None when it was never given out, is expired or was signed out.

        One MongoDB command once the account is remembered, unless one of its tokens was given out or ended since. The
        version of these is asked for every time, so that signing out holds in all processes at once.
        """
        return await self._holder(digest_of(token))

    def is_good(self, holder: Holder, versions: Versions | None) -> bool:
        """Return whether a remembered token is good by the versions of its person, which have just been looked up.

        False where that is not certain: `authenticate` knows.
        """
        return versions is not None and holder.is_of(versions) and holder.expires_at > self._clock.now()

    async def good_versions(self, holder: Holder) -> Versions | None:
        """Look up the versions of somebody whose token is remembered. None where the token is not certainly good by
        them: `authenticate` knows.
        """
        if holder.version is None:
            return None
        versions = versions_in(await rows(self._stack.db, versions_of(holder.account.id)))
        return versions if self.is_good(holder, versions) else None

    async def _holder(self, digest: bytes) -> Account | None:
        known: Holder | None = self._holders.get(digest)
        holder = known if known and await self.good_versions(known) else None
        if holder is None and (holder := await self._looked_up(digest, known and known.account.id)):
            self._holders[digest] = holder
        if holder and holder.expires_at > self._clock.now():
            return holder.account
        self._holders.pop(digest, None)
        return None

    async def _looked_up(self, digest: bytes, person: ObjectId | None) -> Holder | None:
        """Look up a token, with its person and the version of their tokens, all of one moment."""
        token = Find("tokens", {"digest": Binary(digest)}, ("digest", "user_id", "expires_at"), 1, by="digest")
        if person is None:
            given_out = await rows(self._stack.db, token)
            if not given_out:
                return None
            person = given_out[0]["user_id"]
        user = Find("users", {"_id": person}, ("_id", "handle"), 1, by="_id")
        found = await together(self._stack.db, token=token, user=user, versions=versions_of(person))
        if not found["token"] or not found["user"]:
            return None
        account = Account(person, found["user"][0]["handle"])
        return Holder(account, found["token"][0]["expires_at"], versions_in(found["versions"]).tokens)

    async def ended(self, digests: Collection[bytes]) -> set[bytes]:
        """Return the digests of those tokens that are none any more, by one command."""
        find = Find(
            "tokens", {"digest": {"$in": [Binary(each) for each in digests]}}, ("digest", "expires_at"), len(digests)
        )
        now = self._clock.now()
        return set(digests) - {
            bytes(row["digest"]) for row in await rows(self._stack.db, find) if row["expires_at"] > now
        }

    async def new_ticket(self, token: str) -> tuple[str, datetime]:
        """Return a ticket, which opens one live stream in the name of a token, and when it expires."""
        ticket, expires_at = secrets.token_urlsafe(32), self._clock.now() + timedelta(seconds=TICKET_S)
        await Ticket(_id=_digest(ticket), token=_digest(token), expires_at=expires_at).insert()
        return ticket, expires_at

    async def holder_of(self, ticket: str) -> tuple[Account, bytes] | None:
        """Return the owner of a ticket, and the digest of the token that it was given for; None for a bad, expired or
        used one.
        """
        asked = Find("tickets", {"_id": _digest(ticket)}, ("_id", "token", "expires_at"), 1, by="_id")
        given = await rows(self._stack.db, asked)
        if not given or given[0]["expires_at"] <= self._clock.now():
            return None
        token = bytes(given[0]["token"])
        account = await self._holder(token)
        return (account, token) if account else None

    async def spend(self, ticket: str) -> bool:
        """Use a ticket up. Return False where it was used before: of several who spend it, one alone does."""
        return (await self._stack.db["tickets"].delete_one({"_id": _digest(ticket)})).deleted_count == 1

    async def operates(self, user_id: ObjectId | None) -> bool:
        """Return whether this person runs the system now: administrators do, in demo mode
        everybody, even signed out.
        """
        if self._config.demo:
            return True
        found = await self._stack.db.get_collection("users").find_one({"_id": user_id}, {"admin": True})
        return bool(found and found.get("admin"))

    async def sign_out(self, token: str) -> None:
        """End the session of this token; nothing is changed when it is over already."""
        digest = _digest(token)
        found = Find("tokens", {"digest": digest}, ("digest", "user_id"), 1, by="digest")

        async def end(inside: Transaction) -> bool:
            return await inside["tokens"].delete_one({"digest": digest})

        for ended in await rows(self._stack.db, found):
            if await change_tokens(self._stack.db, ended["user_id"], end):
                self._stack.bus.tell(Hint("tokens", ended["user_id"]))
