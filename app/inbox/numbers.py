"""Numbers of what concerns somebody: each person's inbox gives one after the other."""

from collections.abc import Collection, Mapping
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from app.errors import NoAccount
from app.inbox.notifier import INBOXES
from app.stack.mongodb.transaction import Transaction


async def next_numbers(
    inside: Transaction, people: Collection[ObjectId], where: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Take the next number in the inbox of each of these people, sorted: fewer transactions begin again.

    Raises NoAccount for somebody whose inbox is not as `where` says.
    """
    numbers = []
    for one in sorted(people):
        try:
            seq = await inside[INBOXES].next_number({"_id": one, **(where or {})})
        except DuplicateKeyError:  # it is there, and closed
            raise NoAccount(one) from None
        numbers.append({"who": one, "seq": seq})
    return numbers


async def numbers_of_change(
    inside: Transaction, row: Mapping[str, Any], concerned: Collection[ObjectId]
) -> dict[str, int]:
    """Take the next number of each of these people, for a change of the conversation itself.

    The answer is the fields of its document that keep them.
    """
    numbers = await next_numbers(inside, concerned)
    return {f"told.{row['people'].index(told['who'])}.seq": told["seq"] for told in numbers}
