"""The processes of a system, and the memory of all together, shared pages counted once."""

from dataclasses import asdict, dataclass
from typing import Any

import psutil


@dataclass(frozen=True)
class Footprint:
    """What a tree of processes holds now.

    `pss_bytes`: each page divided by the processes that map it, which may be strangers; `uss_bytes`: the
    pages that would be free again if all were gone, but for those that they share among themselves.
    """

    processes: int
    pss_bytes: int
    uss_bytes: int

    def figures(self) -> dict[str, Any]:
        """Return what is kept."""
        return asdict(self)


def tree(root: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    leader = psutil.Process(root)
    return [leader, *leader.children(recursive=True)]


def of_tree(root: int) -> Footprint:
    """Measure a process and its descendants, whichever of them still live (proc(5), smaps)."""
    found = []
    for process in tree(root):
        try:
            found.append(process.memory_full_info())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return Footprint(len(found), sum(m.pss for m in found), sum(m.uss for m in found))
