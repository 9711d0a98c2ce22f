"""A list in memory for each recipient, and a counter. Whoever asks gets their list."""

from collections import defaultdict


class Messenger:
    def __init__(self) -> None:
        self.last = 0
        self.inbox: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def send(self, recipient: str, text: str) -> int:
        self.last += 1
        self.inbox[recipient].append((self.last, text))
        return self.last

    def fetch(self, recipient: str) -> list[tuple[int, str]]:
        return self.inbox.pop(recipient, [])
