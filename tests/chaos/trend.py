"""Whether processes grow: their memory over time, regressed. Pure."""

from collections import defaultdict
from typing import NamedTuple

MIB = 2**20
WARM_UP_SHARE = 0.2
"""Of a process's life: what allocators and caches take, they take once."""
MIN_SPAN_S = 600.0
"""Over less time a trend says nothing."""
MAX_PER_HOUR = MIB
MIN_RISE = 2 * MIB
"""A rise of no more than this is noise, however steep."""


class Trend(NamedTuple):
    """What a line through a process's memory says."""

    name: str
    span_s: float
    bytes_per_hour: float

    @property
    def is_growth(self) -> bool:
        """Whether it is steep, long and high enough to be a leak."""
        rise = self.bytes_per_hour * self.span_s / 3600
        return self.span_s >= MIN_SPAN_S and self.bytes_per_hour > MAX_PER_HOUR and rise > MIN_RISE

    def __str__(self) -> str:
        return f"{self.name} {self.bytes_per_hour / MIB:+.2f} MiB an hour over {self.span_s:.0f} s"


class Memory:
    """The memory of processes, as it was seen."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], list[tuple[float, int]]] = defaultdict(list)

    def note(self, name: str, pid: int, at_s: float, nbytes: int) -> None:
        """Enter what a process has now."""
        self._seen[name, pid].append((at_s, nbytes))

    def trends(self) -> list[Trend]:
        """Return the trend of the longest life of each name, its beginning left out."""
        longest: dict[str, Trend] = {}
        for (name, _), seen in self._seen.items():
            begun = seen[0][0] + WARM_UP_SHARE * (seen[-1][0] - seen[0][0])
            late = [point for point in seen if point[0] >= begun]
            found = Trend(name, late[-1][0] - late[0][0], 3600 * _slope(late))
            if name not in longest or found.span_s > longest[name].span_s:
                longest[name] = found
        return [longest[name] for name in sorted(longest)]


def _slope(points: list[tuple[float, int]]) -> float:
    """Return the slope of the line of least squares; 0 where there is none."""
    middle_s = sum(at for at, _ in points) / len(points)
    middle = sum(nbytes for _, nbytes in points) / len(points)
    spread = sum((at - middle_s) ** 2 for at, _ in points)
    return sum((at - middle_s) * (n - middle) for at, n in points) / spread if spread else 0.0
