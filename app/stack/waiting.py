"""Tasks that several wait for, behind `asyncio.shield`: whoever gives up takes nobody along, and the task goes on."""

import asyncio
from typing import Any


def take_error(task: "asyncio.Task[Any]") -> None:
    """Take the error of such a task when it ends, so that asyncio logs none: all who waited for it may have gone."""
    if not task.cancelled():
        task.exception()
