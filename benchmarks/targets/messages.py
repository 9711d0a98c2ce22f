"""The targets for messages: how late one is at the other's open stream, with receipts too, and what one costs."""

import itertools
from collections.abc import Sequence

from benchmarks.messages import IN_TIME_MS, Run, commands_of_a_post, talks
from benchmarks.report import Row
from benchmarks.rig import Rig, web_processes
from benchmarks.targets.base import Ratio, Scale, p99_ms, percentile, ratio, row

RATE, WEB = 100.0, 2
WRONG = "messages lost, doubled or out of order"
POST = "commands of an uncontended POST of a message over HTTP, authentication included"


async def late(rig: Rig, scale: Scale) -> list[Row]:
    texts, count = itertools.count(), scale.readers // 4  # 100 conversations
    *those, apart = await talks(rig, count + 1, scale.people, scale.readers)
    async with web_processes(rig, WEB) as webs:
        one, both = (Run(those, [web.port for web in webs], 1, texts, receipts=receipts) for receipts in (False, True))
        commands = await commands_of_a_post(rig, one, apart, min(scale.reads, 31))
        async with one.streams():
            plain = await one.at_rate(RATE, 2 * scale.tail / RATE)
            await one.judge()
        async with both.streams():
            told = await both.at_rate(RATE, 2 * scale.tail / RATE)
            await both.judge()
    # With receipts it is more than two cores do: who is refused then, with a Retry-After, has lost nothing.
    wrong = len(one.wrongs + both.wrongs) + plain.errors.total()
    figures = {
        f"{name}_{p}_ms": percentile(delays.received, at)
        for name, delays in (("plain", plain), ("with_receipts", told))
        for p, at in (("p50", 50), ("p99", 99))
    } | {f"read_{p}_ms": told.read.ms(at) for p, at in (("p50", 50), ("p99", 99))}
    figures["refused_with_receipts"] = told.errors.total()
    title = (
        f"a message at the other's open stream, p99 ÷ {IN_TIME_MS:g} ms: {RATE:g}/s in {count} conversations, {WEB} web"
    )
    return [
        row("messages-late", title, _to_bound(plain.received), figures, at_most=1),
        row("messages-receipts", f"{title}, with receipts", _to_bound(told.received), figures),
        row("messages-lost", f"{WRONG}, or refused where there are no receipts", _exactly(wrong), figures, at_most=0),
        row("messages-mongodb", f"MongoDB {POST}", _exactly(commands["mongodb"]), commands, at_most=8),
        row("messages-redis", f"Redis {POST}", _exactly(commands["redis"]), commands, at_most=1),
    ]


def _to_bound(seconds: Sequence[float]) -> Ratio:
    """Return p99 ÷ the bound. Messages of one second are late together."""
    return ratio(seconds, [IN_TIME_MS / 1000] * len(seconds), p99_ms, together=round(RATE))


def _exactly(count: float) -> Ratio:
    return Ratio(count, count, count)
