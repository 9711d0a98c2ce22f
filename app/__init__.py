"""The application: people, statuses, friendships, and everything around the timeline."""

from importlib.metadata import version

__version__ = version("feedlab")
