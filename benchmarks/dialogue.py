"""A dialogue as two people know it from the answers that they got, and what is wrong with what they are shown.

It shares no code with what it judges. What was sent and never acknowledged may be there, once, or not.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Wrong(NamedTuple):
    """An error in what was shown. `kind`: missing, doubled or wrong."""

    kind: str
    what: str


@dataclass
class Dialogue:
    """One conversation, whose texts are unique.

    `acknowledged`: the number of each text. `before`: for each text that was sent, the highest number that had been
    acknowledged until then.
    """

    acknowledged: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    last: int = 0

    def begin(self, text: str) -> None:
        self.before[text] = self.last

    def acknowledge(self, text: str, seq: int) -> Iterator[Wrong]:
        if self.acknowledged.setdefault(text, seq) != seq:
            yield Wrong("doubled", f"{text!r} is number {self.acknowledged[text]} and {seq}")
        if seq <= self.before[text]:
            yield Wrong("wrong", f"{text!r} is number {seq}, and {self.before[text]} was there before it was sent")
        self.last = max(self.last, seq)

    def check(self, shown: Sequence[tuple[int, str]], due: Mapping[str, int]) -> Iterator[Wrong]:
        """Yield what is wrong with the whole conversation as it is shown: (number, text), newest first.

        `due`: what had been acknowledged before anybody looked.
        """
        numbers = [seq for seq, _ in shown]
        if numbers != list(range(len(shown), 0, -1)):
            yield Wrong("wrong", f"not numbered one after the other: {numbers}")
        places = defaultdict[str, list[int]](list)
        for seq, text in shown:
            places[text].append(seq)
        for text, at in places.items():
            if text not in self.before:
                yield Wrong("wrong", f"nobody has said {text!r}, number {at}")
            elif len(at) > 1:
                yield Wrong("doubled", f"{text!r} is number {at}")
        for text, seq in due.items():
            if not places[text]:
                yield Wrong("missing", f"{text!r}, acknowledged as number {seq}")
            elif seq not in places[text]:
                yield Wrong("wrong", f"{text!r} is number {places[text]}, acknowledged as {seq}")
