"""The base of experiments, and the knobs that they are run with."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from app.errors import Invalid
from app.walkthrough.lab import Lab
from app.walkthrough.result import Result

STAND_IN_TIMES = 10


@dataclass(frozen=True)
class Knob:
    """A slider. `usual`: where it stands at first; `small`: the same on stand-ins, which are slow and time nothing."""

    name: str
    label: str
    lowest: int
    highest: int
    step: int
    usual: int
    small: int
    unit: str = ""

    def top(self, *, real: bool) -> int:
        """Return the highest value.

        It is lower for a stand-in, which works in the site's own process: nobody shall wait for it.
        """
        return self.highest if real else min(self.highest, STAND_IN_TIMES * self.small)

    def value(self, text: str, *, real: bool) -> int:
        """Return the value that was given, or the slider's first one where none was.

        Raises Invalid for one out of range.
        """
        if not text:
            return self.usual if real else self.small
        top = self.top(real=real)
        if not text.isascii() or not text.isdecimal() or len(text) > 9 or not self.lowest <= int(text) <= top:
            raise Invalid(self.name, f"{self.label}: a whole number from {self.lowest:,} to {top:,}.")
        return int(text)


class Experiment(ABC):
    """An experiment that its knobs bound. It runs in a laboratory, and says what it found, expected or not."""

    slug: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    knobs: ClassVar[tuple[Knob, ...]]

    def values(self, given: Mapping[str, str], *, real: bool = True) -> dict[str, int]:
        """Return the knobs' values, with the sliders' first ones where none are given. Raises Invalid."""
        return {knob.name: knob.value(given.get(knob.name, ""), real=real) for knob in self.knobs}

    @abstractmethod
    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result: ...
