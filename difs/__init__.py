"""DIFS: a local, model-less inference service for text-to-image diffusion.

Here live only the public names; they load on first use, so that `import difs` stays light.
"""

from typing import TYPE_CHECKING, Any

from difs.version import __version__

__all__ = ["AsyncClient", "Client", "DifsError", "Result", "__version__"]

if TYPE_CHECKING:
    from difs.client import AsyncClient, Client, Result
    from difs.errors import DifsError

_HOMES = {
    "AsyncClient": "difs.client",
    "Client": "difs.client",
    "Result": "difs.client",
    "DifsError": "difs.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'difs' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
