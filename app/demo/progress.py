"""The progress of a long command: a bar on a terminal, now and then a line elsewhere, always on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich import progress as bars
from rich.console import Console

LINE_EVERY_S = 5.0  # without a terminal; the end of a step is always said

Progress = Callable[[str, int, int], None]  # what is being done, how many are done, of how many (0: nobody knows)


def silent(what: str, done: int, total: int) -> None:
    """Show nothing: the progress of a command that nobody watches."""


@contextmanager
def shown() -> Iterator[Progress]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (
        bars.TextColumn("{task.description:<24}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console) as display:
        bar = display.add_task("starting", total=None)
        yield lambda what, done, total: display.update(bar, description=what, completed=done, total=total or None)


def _lines() -> Progress:
    began_s = said_s = time.monotonic()
    last = ""

    def say(what: str, done: int, total: int) -> None:
        nonlocal said_s, last
        now_s = time.monotonic()
        if what != last or 0 < done == total or now_s - said_s >= LINE_EVERY_S:
            said_s, last = now_s, what
            of = f" of {total:,}" if total else ""
            click.echo(f"{now_s - began_s:6.1f} s  {what}: {done:,}{of}", err=True)

    return say
