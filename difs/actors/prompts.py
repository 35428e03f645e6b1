"""The cache of encoded prompts: bounded by bytes, least recently used first out. Makes no tensors."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class PromptCache:
    """Keeps what was encoded; keys name the text, the encoder's weights and the adapters."""

    def __init__(self, budget_bytes: int) -> None:
        """Keep at most `budget_bytes`; 0 keeps nothing."""
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.nbytes = 0
        self.misses = 0
        """How often something was not there."""

    def get(self, key: Hashable) -> Any | None:
        """Return what is kept under `key`, or None."""
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep `value`; the least recently used go until there is room."""
        if key in self._kept:
            self.nbytes -= self._kept.pop(key)[1]
        if nbytes > self._budget_bytes:
            return
        self._kept[key] = (value, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self._budget_bytes:
            self.nbytes -= self._kept.popitem(last=False)[1][1]

    def __len__(self) -> int:
        return len(self._kept)
