"""Names and texts for seeded people: the lists of `words.toml`, combined at random."""

import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

_LISTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
FIRST_NAMES: tuple[str, ...] = tuple(_LISTS["first_names"])
LAST_NAMES: tuple[str, ...] = tuple(_LISTS["last_names"])

_SLOT = re.compile(r"\{([a-z]+)(_[a-z]+)?\}")


def pick(draw: Callable[[], float], choices: Sequence[str]) -> str:
    """Return one of `choices`, by a number that `draw` gives from [0, 1)."""
    return choices[int(draw() * len(choices))]


def sentence(draw: Callable[[], float]) -> str:
    """Return a status somebody might have written, at most 200 characters.

    A slot such as {food_said} starts a sentence.
    """

    def word(slot: re.Match[str]) -> str:
        chosen = pick(draw, _LISTS["slots"][slot[1]])
        return chosen[0].upper() + chosen[1:] if slot[2] else chosen

    text = _SLOT.sub(word, pick(draw, _LISTS["templates"])).strip()
    return text[0].upper() + text[1:]
