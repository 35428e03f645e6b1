"""The Python client: `Client` (blocking) and `AsyncClient`, over one core without I/O."""

from difs.client.aio import AsyncClient
from difs.client.result import Result
from difs.client.sync import Client

__all__ = ["AsyncClient", "Client", "Result"]
