"""A server of a peer does not outlive the bench, however the bench ends."""

import os
import signal
import threading
import time

CHECK_S = 1.0


def share_with_parent() -> None:
    """Kill this process and its whole group, workers included, once the parent is gone.

    To be called first thing in a process that leads its group, and in workers that a framework puts into
    groups of their own.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="fate", daemon=True).start()
