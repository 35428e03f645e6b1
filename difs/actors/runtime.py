"""The runtime options of a variant: memory format, compilation, attention kernels, CUDA graphs.

Each is named in the variant's manifest and off unless it was measured to pay (`bench.runtime_options`).
A request that must be exact runs eagerly, whatever the options say.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from difs import manifests

BACKENDS: dict[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
COMPILER: Any = "inductor"


class Runtime:
    """How a UNet is called."""

    def __init__(self, unet: Any, options: manifests.Runtime) -> None:
        """Apply `options` to a loaded UNet; compilation itself happens at its first call."""
        if options.channels_last:
            unet.to(memory_format=torch.channels_last)
        self.unet = unet
        self._backend = BACKENDS.get(options.attention)
        self._is_compiled = options.compilation != "none"
        self._keeps_layout = not options.channels_last
        settings: dict[str, Any] = {"backend": COMPILER, "dynamic": True}
        if options.cuda_graphs:
            settings = {"mode": "reduce-overhead"}
        if options.compilation == "regional":
            unet.compile_repeated_blocks(**settings)
        elif options.compilation == "full":
            self.unet = torch.compile(unet, **settings)

    def is_exact(self, *, alone: bool) -> bool:
        """Whether a call has the bits that it has without options; `alone` as `exact` in `around`."""
        return self._keeps_layout and (alone or not (self._is_compiled or self._backend))

    @contextlib.contextmanager
    def around(self, *, exact: bool) -> Iterator[None]:
        """Set what must hold during a call; `exact` runs the code that diffusers would run."""
        with contextlib.ExitStack() as stack:
            if exact and self._is_compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self._backend is not None and not exact:
                stack.enter_context(sdpa_kernel(self._backend))
            yield
