"""Fixtures of the process tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process.service import Calls, Service

Start = Callable[..., Service]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a service; its end is the test's end."""
    with ExitStack() as stack:

        def begin(*options: str, home: Path | None = None) -> Service:
            return stack.enter_context(Service(options, home=home))

        yield begin


@pytest.fixture
def calls() -> Calls:
    """Return what makes calls in the background."""
    return Calls()
