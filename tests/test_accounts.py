"""Signing up, signing in, and whose a token is."""

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from app import accounts as module
from app.accounts import Accounts, Caller
from app.config import DAY_S, Config
from app.edges import VERSIONS, version_key
from app.errors import Conflict, Invalid, TooMany, WrongPassword
from app.models import Account, Token, User
from app.stack import Stack, connected
from app.stack.cost import counted
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, Rows, rows
from tests.dates import NOON, ManualClock
from tests.world import STAND_INS

pytestmark = pytest.mark.anyio
PASSWORD = "correct horse"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
async def stack(clock: ManualClock) -> AsyncIterator[Stack]:
    config = Config.from_environment({}, failed_sign_ins_per_minute=3, failed_sign_ins_per_handle=5, token_days=2)
    async with connected(STAND_INS, config, clock) as opened:
        yield opened


@pytest.fixture
def accounts(stack: Stack) -> Accounts:
    return Accounts(stack)


@pytest.fixture
def another(stack: Stack) -> Accounts:
    """The accounts as another process has them."""
    return Accounts(stack)


async def test_a_handle_is_kept_in_lower_case_and_is_unique_in_any_case(accounts: Accounts) -> None:
    user = await accounts.sign_up("Ann_1", None, PASSWORD)
    assert (user.handle, user.name) == ("ann_1", "ann_1")
    with pytest.raises(Conflict):
        await accounts.sign_up("aNN_1", "Somebody", PASSWORD)


async def test_of_two_who_want_a_handle_at_once_one_gets_it(accounts: Accounts) -> None:
    both = await asyncio.gather(*(accounts.sign_up("ann", None, PASSWORD) for _ in range(2)), return_exceptions=True)
    assert [type(outcome) for outcome in both].count(Conflict) == 1
    assert await User.find({"handle": "ann"}).count() == 1


@pytest.mark.parametrize("handle", ["", "a" * 31, "a-b", "ann\n", "änn", "\u212aate", "a b", "\0", "\ud800"])
async def test_a_handle_has_letters_digits_and_underscores(accounts: Accounts, handle: str) -> None:
    with pytest.raises(Invalid) as refused:
        await accounts.sign_up(handle, None, PASSWORD)
    assert refused.value.field == "handle"


@pytest.mark.parametrize("password", ["", "7 chars", "x" * 201, "\ud800" * 8])
async def test_a_password_has_8_to_200_characters(accounts: Accounts, password: str) -> None:
    with pytest.raises(Invalid) as refused:
        await accounts.sign_up("ann", None, password)
    assert refused.value.field == "password"


@pytest.mark.parametrize("password", ["8 signs!", "x" * 200, "\N{SNOWMAN}" * 200, "null\0null"])
async def test_every_password_of_that_length_works(accounts: Accounts, password: str) -> None:
    await accounts.sign_up("ann", None, password)
    await accounts.sign_in("ann", password)
    with pytest.raises(WrongPassword):
        await accounts.sign_in("ann", password + "x")


async def test_whoever_signs_in_while_the_password_is_changed_is_refused(accounts: Accounts) -> None:
    """The old password was right when it was looked at; the token comes after the end of all others."""
    user = await accounts.sign_up("ann", None, PASSWORD)
    token, _ = await accounts.sign_in("ann", PASSWORD)
    await accounts.change_password(Account.of(user), token, PASSWORD, "another horse")
    with pytest.raises(WrongPassword):
        await accounts.new_token(user.id, user.password_hash)
    assert await Token.find({"user_id": user.id}).count() == 1
    with pytest.raises(WrongPassword):
        await accounts.change_password(Account.of(user), token, PASSWORD, "third horse")


@pytest.mark.parametrize(("name", "kept"), [("  Ann Lee ", "Ann Lee"), ("", "ann"), ("  ", "ann"), ("👩‍👧", "👩‍👧")])
async def test_a_name_is_trimmed_and_is_the_handle_when_blank(accounts: Accounts, name: str, kept: str) -> None:
    assert (await accounts.sign_up("ann", name, PASSWORD)).name == kept


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "a\0b", "\ud800", "a\u2028b"])
async def test_a_name_is_one_line_of_at_most_100_characters(accounts: Accounts, name: str) -> None:
    with pytest.raises(Invalid) as refused:
        await accounts.sign_up("ann", name, PASSWORD)
    assert refused.value.field == "name"


async def test_what_is_stored_opens_nothing(accounts: Accounts) -> None:
    user = await accounts.sign_up("ann", None, PASSWORD)
    assert user.password_hash
    assert user.password_hash.startswith("$argon2id$")
    token, _ = await accounts.new_token(user.id)
    (stored,) = await Token.find_all().to_list()
    assert token.encode() not in stored.digest
    assert len(stored.digest) == 32


async def test_a_token_is_its_owners_until_it_expires(accounts: Accounts, clock: ManualClock) -> None:
    user = await accounts.sign_up("ann", "Ann", PASSWORD)
    token, expires_at = await accounts.sign_in("ANN", PASSWORD)
    assert (expires_at - clock.now()).days == 2
    assert await accounts.authenticate(token) == Account(user.id, "ann")
    clock.advance(2 * DAY_S - 1)
    assert await accounts.authenticate(token)
    clock.advance(1)
    assert await accounts.authenticate(token) is None


async def test_signing_out_ends_this_token_only(accounts: Accounts, another: Accounts) -> None:
    user = await accounts.sign_up("ann", None, PASSWORD)
    (first, _), (second, _) = await accounts.new_token(user.id), await accounts.new_token(user.id)
    for process in (accounts, another):
        assert await process.authenticate(first)
    await accounts.sign_out(first)
    await accounts.sign_out(first)
    for process in (accounts, another):
        assert await process.authenticate(first) is None
        assert await process.authenticate(second)


async def test_a_token_may_end_while_it_is_looked_up(
    accounts: Accounts, another: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await accounts.sign_up("ann", None, PASSWORD)
    token, _ = await accounts.new_token(user.id)
    looked_up = rows

    async def rows_and_then(db: Database, find: Find) -> Rows:
        found = await looked_up(db, find)
        monkeypatch.setattr(module, "rows", looked_up)
        await another.sign_out(token)
        return found

    monkeypatch.setattr(module, "rows", rows_and_then)
    assert await accounts.authenticate(token) is None
    assert await accounts.authenticate(token) is None


async def test_a_token_of_before_there_were_versions_is_looked_up_each_time(accounts: Accounts, stack: Stack) -> None:
    user = await accounts.sign_up("ann", None, PASSWORD)
    token, _ = await accounts.new_token(user.id)
    await stack.db[VERSIONS].delete_many(version_key(user.id))
    for _ in range(2):
        assert await accounts.authenticate(token)
    await stack.db["tokens"].delete_many({})
    assert await accounts.authenticate(token) is None


async def test_the_command_of_the_docs_ends_all_sessions(accounts: Accounts, stack: Stack) -> None:
    user = await accounts.sign_up("ann", None, PASSWORD)
    token, _ = await accounts.new_token(user.id)
    assert await accounts.authenticate(token)
    deploying = (Path(__file__).parents[1] / "docs" / "deploying.md").read_text(encoding="utf-8")
    [commands] = re.findall(r"^\| all sessions \| `(.+?)`", deploying, re.MULTILINE)
    for collection, method, given in re.findall(r"db\.(\w+)\.(\w+)\((.+?)\)(?:; |$)", commands):
        arguments = json.loads("[" + re.sub(r"([$\w]+):", r'"\1":', given) + "]")
        await getattr(stack.db[collection], {"deleteMany": "delete_many", "updateMany": "update_many"}[method])(
            *arguments
        )
    assert await accounts.authenticate(token) is None
    again, _ = await accounts.new_token(user.id)
    assert await accounts.authenticate(again)


@pytest.mark.parametrize("token", ["", "x", "ÿ", "\0", "x" * 10_000])
async def test_no_other_text_is_a_token(accounts: Accounts, token: str) -> None:
    assert await accounts.authenticate(token) is None


async def test_a_known_account_costs_one_command(accounts: Accounts) -> None:
    token, _ = await accounts.new_token((await accounts.sign_up("ann", None, PASSWORD)).id)
    with counted() as first:
        await accounts.authenticate(token)
    with counted() as later:
        await accounts.authenticate(token)
    await accounts.sign_in("ann", PASSWORD)
    with counted() as elsewhere_too:
        await accounts.authenticate(token)
    with counted() as again:
        await accounts.authenticate(token)
    assert [cost.mongodb for cost in (first, later, elsewhere_too, again)] == [2, 1, 2, 1]


async def test_only_so_many_accounts_are_remembered(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLDERS_REMEMBERED", 1)
    accounts = Accounts(stack)
    tokens = [
        (await accounts.new_token((await accounts.sign_up(name, None, PASSWORD)).id))[0] for name in ("ann", "bob")
    ]
    for token in tokens:
        assert await accounts.authenticate(token)
    with counted() as forgotten:
        await accounts.authenticate(tokens[0])
    assert forgotten.mongodb == 2


async def test_whether_somebody_is_an_administrator_is_never_remembered(accounts: Accounts) -> None:
    user = await accounts.sign_up("ann", None, PASSWORD)
    assert not await accounts.operates(user.id)
    await user.set({"admin": True})
    assert await accounts.operates(user.id)


async def test_an_unknown_handle_is_refused_like_a_wrong_password(
    accounts: Accounts, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    matches = module._matches

    def watched(password_hash: str | None, password: str) -> bool:
        verified.append(password)
        return matches(password_hash, password)

    monkeypatch.setattr(module, "_matches", watched)
    await accounts.sign_up("ann", None, PASSWORD)
    await User(handle="bob", name="no password", created_at=clock.now()).insert()
    texts = set()
    for handle in ("ann", "bob", "nobody", "no such\0handle", "\ud800"):
        with pytest.raises(WrongPassword) as refused:
            await accounts.sign_in(handle, "wrong password")
        texts.add(str(refused.value))
    assert len(texts) == 1
    assert len(verified) == 5, "each of them has cost one hash"


async def test_failures_are_limited_per_handle(accounts: Accounts) -> None:
    await accounts.sign_up("ann", None, PASSWORD)
    await accounts.sign_up("bob", None, PASSWORD)
    for handle in ("ann", "Ann", "ANN"):
        await accounts.sign_in("ann", PASSWORD)  # success is not counted
        with pytest.raises(WrongPassword):
            await accounts.sign_in(handle, "wrong password")
    with pytest.raises(TooMany) as refused:
        await accounts.sign_in("ann", PASSWORD)
    assert 1 <= refused.value.retry_after_s <= 60
    await accounts.sign_in("bob", PASSWORD)


async def test_trying_many_at_once_is_no_way_around_the_limit(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[object] = []

    async def never(call: object, *args: object) -> bool:
        judged.append(call)
        await asyncio.sleep(0)
        return False

    monkeypatch.setattr(module, "in_thread", never)
    outcomes = await asyncio.gather(*(accounts.sign_in("ann", PASSWORD) for _ in range(50)), return_exceptions=True)
    assert len(judged) <= 3 + module.HASHED_AT_ONCE - 1, "those who are being judged when the limit is reached"
    assert {type(outcome) for outcome in outcomes} == {WrongPassword, TooMany}


async def fails(accounts: Accounts, *callers: Caller) -> None:
    for caller in callers:
        with pytest.raises(WrongPassword):
            await accounts.sign_in("ann", "wrong password", caller)


async def test_what_a_stranger_tries_locks_nobody_else_out(accounts: Accounts) -> None:
    await accounts.sign_up("ann", None, PASSWORD)
    stranger, owner = Caller("192.0.2.1"), Caller("192.0.2.2")
    await fails(accounts, *[stranger] * 3)
    with pytest.raises(TooMany):
        await accounts.sign_in("ann", PASSWORD, stranger)
    await accounts.sign_in("ann", PASSWORD, owner)


@pytest.mark.parametrize("signed_up_there", [False, True])
async def test_who_has_signed_in_from_a_device_comes_in_whatever_strangers_try(
    accounts: Accounts, signed_up_there: bool
) -> None:
    laptop = Caller("192.0.2.1", "laptop")
    await accounts.sign_up("ann", None, PASSWORD, laptop if signed_up_there else Caller())
    if not signed_up_there:
        await accounts.sign_in("ann", PASSWORD, laptop)
    await fails(accounts, *(Caller(f"198.51.100.{n}", "guessed") for n in range(5)))
    with pytest.raises(TooMany):
        await accounts.sign_in("ann", PASSWORD, Caller("203.0.113.1", "new"))
    await accounts.sign_in("ann", PASSWORD, Caller("203.0.113.1", "laptop"))
    await accounts.sign_in("ann", PASSWORD, Caller("192.0.2.1"))
    await fails(accounts, *[laptop] * 3)
    with pytest.raises(TooMany):
        await accounts.sign_in("ann", PASSWORD, laptop)


async def test_a_device_is_known_for_longer_than_a_session_from_each_sign_in_on(accounts: Accounts) -> None:
    laptop = Caller("192.0.2.1", "laptop")
    await accounts.sign_up("ann", None, PASSWORD, laptop)
    now, days = time.time(), 2 + module.DEVICE_DAYS - 1  # the fixture's session, and almost all of what comes behind it
    for visit in range(1, 4):
        with patch("time.time", return_value=now + visit * days * DAY_S):
            await fails(accounts, *(Caller(f"198.51.100.{n}", "guessed") for n in range(5)))
            await accounts.sign_in("ann", PASSWORD, laptop)


@pytest.mark.parametrize("limit", ["sign_ups_per_minute", "sign_ins_per_minute"])
async def test_an_address_is_limited_before_anything_is_hashed(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    hashed: list[object] = []

    async def counted_hash(call: object, *args: object) -> str | bool:
        hashed.append(call)
        return "hash" if call == module.HASHER.hash else False

    monkeypatch.setattr(module, "in_thread", counted_hash)
    async with connected(STAND_INS, Config.from_environment({}, **{limit: 2}), clock) as stack:
        accounts = Accounts(stack)
        enter: Any = {
            "sign_ups_per_minute": lambda n, caller: accounts.sign_up(f"ann{n}", None, PASSWORD, caller),
            "sign_ins_per_minute": lambda n, caller: accounts.sign_in(f"ann{n}", PASSWORD, caller),
        }[limit]
        outcomes = [
            (await asyncio.gather(enter(n, Caller(address)), return_exceptions=True))[0]
            for n, address in enumerate(["192.0.2.1"] * 4 + ["192.0.2.2"])
        ]
    assert [isinstance(outcome, TooMany) for outcome in outcomes] == [False, False, True, True, False]
    assert len(hashed) == 3


async def test_a_person_has_only_so_many_tokens(
    accounts: Accounts, another: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS_EACH", 2)
    ann, bob = [await accounts.sign_up(name, None, PASSWORD) for name in ("ann", "bob")]
    (bobs, _) = await accounts.new_token(bob.id)
    tokens = []
    for _ in range(4):
        token, _ = await accounts.new_token(ann.id)
        assert await another.authenticate(token)
        tokens.append(token)
    for process in (accounts, another):
        assert [await process.authenticate(token) is not None for token in tokens] == [False, False, True, True]
    assert await accounts.authenticate(bobs)


async def test_passwords_are_hashed_a_few_at_a_time(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, most = 0, 0
    pair = threading.Barrier(module.HASHED_AT_ONCE)  # nobody goes on alone

    def watched(password_hash: str | None, password: str) -> bool:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        pair.wait(timeout=10)
        busy -= 1
        return False

    monkeypatch.setattr(module, "_matches", watched)
    await asyncio.gather(*(accounts.sign_in(f"nobody{n}", PASSWORD) for n in range(10)), return_exceptions=True)
    assert most == module.HASHED_AT_ONCE


async def test_a_rush_is_refused_rather_than_queued_without_end(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_FOR_A_HASH", 3)
    outcomes = await asyncio.gather(
        *(accounts.sign_up(f"ann{n}", None, PASSWORD) for n in range(5)), return_exceptions=True
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert (kinds.count(User), kinds.count(TooMany)) == (3, 2)
