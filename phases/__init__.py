"""The phases in story order. A new phase is one file and one name in PHASES."""

from phases.base import Phase
from phases.p1_query import QUERY
from phases.p2_push import PUSH
from phases.p3_queue import QUEUE
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from phases.p6_hybrid import HYBRID

PHASES: tuple[Phase, ...] = (QUERY, PUSH, QUEUE, CACHE, STREAM, HYBRID)
DEFAULT = CACHE  # what a new system delivers by and reads, until somebody switches it
