"""The four phases in story order. A fifth is one file and one name in the tuple."""

from phases.base import Phase
from phases.p1_query import Query
from phases.p2_push import Push
from phases.p3_queue import Queue
from phases.p4_cache import Cache

PHASES: tuple[type[Phase], ...] = (Query, Push, Queue, Cache)
