"""What an experiment is."""

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
    """A slider. `small`: where it stands on stand-ins, which are slow and whose times mean nothing."""

    name: str
    label: str
    lowest: int
    highest: int
    step: int
    usual: int
    small: int
    unit: str = ""

    def top(self, *, real: bool) -> int:
        """The end of the slider. A stand-in works in the site's own process, and nobody shall wait for it."""
        return self.highest if real else min(self.highest, STAND_IN_TIMES * self.small)

    def value(self, text: str, *, real: bool) -> int:
        """Where the slider was put. Raises Invalid for what it cannot be set to; nothing leaves it where it stands."""
        if not text:
            return self.usual if real else self.small
        top = self.top(real=real)
        if not text.isascii() or not text.isdecimal() or len(text) > 9 or not self.lowest <= int(text) <= top:
            raise Invalid(self.name, f"{self.label}: a whole number from {self.lowest:,} to {top:,}.")
        return int(text)


class Experiment(ABC):
    """Bounded by its knobs. Runs in a laboratory of its own, and says what it found whether or not it was expected."""

    slug: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    knobs: ClassVar[tuple[Knob, ...]]

    def values(self, given: Mapping[str, str], *, real: bool = True) -> dict[str, int]:
        """The knobs' values; where they stand if nothing is given. Raises Invalid."""
        return {knob.name: knob.value(given.get(knob.name, ""), real=real) for knob in self.knobs}

    @abstractmethod
    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result: ...
