"""The demo's people: a follow graph, read or generated, and the statuses that somebody like them might have written."""
