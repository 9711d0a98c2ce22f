"""The machine's limits for this process: its memory, and the time that it waits for a processor."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

GROUPS, MEMBER_OF = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
THREADS = Path("/proc/self/task")  # of each thread, in `schedstat`: nanoseconds run, nanoseconds waited, times


class Machine(Collector):
    """Metrics of the machine, read at every scrape, since limits may change while a process runs.

    `loop_thread`: the native id of the thread with the event loop; None for the main one.
    """

    loop_thread: int | None = None

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        yield GaugeMetricFamily("feedlab_memory_limit_bytes", "Memory that this process may use", memory_limit())
        scheduled = THREADS / str(self.loop_thread or os.getpid()) / "schedstat"
        if scheduled.exists():  # Linux
            waited_s = int(scheduled.read_text("ascii").split()[1]) / 1e9
            text = "Time that the event loop's thread could have gone on in, had it been given a processor"
            yield CounterMetricFamily("feedlab_processor_wait_seconds", text, waited_s)


def memory_limit(groups: Path = GROUPS, member_of: Path = MEMBER_OF) -> int:
    """Return the bytes that this process may use.

    That is the least of the machine's memory, `ulimit -m`, and the limits of the control groups that the process is in.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_RSS)
    told = [] if soft == resource.RLIM_INFINITY else [soft]
    return min([psutil.virtual_memory().total, *told, *_of_groups(groups, member_of)])


def _of_groups(groups: Path, member_of: Path) -> Iterator[int]:
    """Yield the memory limits, in bytes, of the control groups that the process is in.

    Source: cgroups(7), "/proc/[pid]/cgroup"; memory.max of version 2, memory.limit_in_bytes of version 1.
    """
    for line in member_of.read_text("utf-8").splitlines() if member_of.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, name = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (folder / name).is_file():
                said = (folder / name).read_text("ascii").strip()
                yield from [int(said)] if said.isdigit() else []  # else "max"
