"""Two marks that only rise say of every message how far it is."""

from dataclasses import dataclass


@dataclass
class Marks:
    delivered: int = 0
    read: int = 0

    def receipt(self, delivered: int = 0, read: int = 0) -> None:
        self.read = max(self.read, read)
        self.delivered = max(self.delivered, delivered, self.read)

    def state(self, seq: int) -> str:
        if seq <= self.read:
            return "read"
        return "delivered" if seq <= self.delivered else "sent"
