"""Watches the model repository from a thread of its own, so that no scan delays a message."""

import logging
import queue
import threading

from difs import catalogue
from difs.broker.events import RepositoryChanged
from difs.catalogue import Catalogue
from difs.errors import DifsError
from difs.repository import Repository

log = logging.getLogger(__name__)

LOOK_S = 1.0


class Watcher:
    """Tells what changed in a catalogue; only its thread uses the catalogue."""

    def __init__(self, watched: Catalogue) -> None:
        """Start to look every LOOK_S seconds."""
        self._catalogue = watched
        self._known = watched.found
        self._news: queue.SimpleQueue[RepositoryChanged] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def news(self) -> list[RepositoryChanged]:
        """Take what changed since the last time, oldest first."""
        found = []
        while not self._news.empty():
            found.append(self._news.get())
        return found

    def close(self) -> None:
        """Stop to look."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                if self._catalogue.refresh():
                    self._compare(self._catalogue.found)
            except (OSError, DifsError) as error:  # a folder went while it was read: look again
                log.warning("the model repository cannot be read: %s", error)

    def _compare(self, now: Repository) -> None:
        before, self._known = self._known, now
        for problem in sorted(set(now.problems) - set(before.problems)):
            log.warning("not registered: %s", problem)
        self._news.put(change(before, now))


def change(before: Repository, now: Repository) -> RepositoryChanged:
    """Return what the broker must know of a change."""
    return RepositoryChanged(
        variants={name: variant.info() for name, variant in now.variants.items()},
        adapters={name: adapter.info() for name, adapter in now.adapters.items()},
        outdated=catalogue.outdated(before, now),
    )
