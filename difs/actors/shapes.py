"""Which shapes a device has computed: the first call of one says little of the next.

It also chooses kernels and makes plans: on an H100 the first call for four SD 1.5 pictures took 0.8 s
more than the second one (`bench.gpu_engine`), on a CPU oneDNN takes a tenth to a quarter of a call.
"""

from collections import OrderedDict
from typing import NamedTuple

MOST = 4096
"""As many are remembered; oneDNN and cuDNN forget, too."""


class Shape(NamedTuple):
    """Of a call; `rows` 0: of a decoding."""

    variant: str
    width: int
    height: int
    rows: int


class Shapes:
    """Those that were computed lately."""

    def __init__(self) -> None:
        """Know of none."""
        self._seen: OrderedDict[Shape, None] = OrderedDict()

    def is_first(self, shape: Shape) -> bool:
        """Note a call; returns whether none of its shape was seen before."""
        is_first = shape not in self._seen
        self._seen[shape] = None
        self._seen.move_to_end(shape)
        if len(self._seen) > MOST:
            self._seen.popitem(last=False)
        return is_first
