"""Keeping home timelines: where they are, whom they are kept for, and from where on they are complete."""
