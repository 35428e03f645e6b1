"""Shared memory as pinned memory: a GPU writes pixels where the client reads them, in one copy.

Only where there is CUDA; where the driver refuses (a limit on locked memory), the copy goes through the
driver's own staging buffer, and nothing else changes.
"""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

log = logging.getLogger(__name__)


def pin(memory: NDArray[np.uint8]) -> bool:
    """Register `memory` with CUDA (cudaHostRegister); returns whether it is pinned now."""
    error = _cudart().cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)
    if int(error) != 0:
        log.warning("shared memory cannot be pinned (CUDA error %d): pictures take one copy more", error)
    return int(error) == 0


def unpin(memory: NDArray[np.uint8]) -> None:
    """Undo `pin`, before the memory is unmapped."""
    _cudart().cudaHostUnregister(memory.ctypes.data)


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
