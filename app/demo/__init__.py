"""The demo's people: a follow graph, read or generated, and statuses that such people might have written."""
