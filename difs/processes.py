"""What every DIFS process does about itself: die with its parent, name itself, seldom look for garbage.

No decisions and no messages.
"""

import ctypes
import gc
import os
import signal
import sys

_PR_SET_NAME, _PR_SET_PDEATHSIG = 15, 1

EXIT_SOFTWARE = os.EX_SOFTWARE
"""70: an actor whose device can no longer be trusted."""
EXIT_TAKEN = os.EX_CANTCREAT
"""73: another service runs in this run directory."""
EXIT_CONFIG = os.EX_CONFIG
"""78: the configuration is wrong or does not fit the machine."""


WAITING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "30000"}
"""Idle OpenMP threads spin briefly, then sleep.

Sleeping at once (PASSIVE alone) doubled the time of a small UNet's step. With a sixth of these spins the
first step after a rest of 0.3 s took 45 ms at the 90th percentile, with these 20: each loop had to wake a
core. Spinning for long starves the other processes on the same cores.
"""


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the parent ends (prctl(2), PR_SET_PDEATHSIG); exits if it has ended already.

    The signal comes when the *thread* that made us ends: parents start children from their main
    thread only.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(f"the parent process {parent_pid} is gone")


def cores_share(devices: int) -> int:
    """Return the threads of one of so many computing processes: spinning pools must not overlap.

    One core is left to all else, as vLLM's CPU back end leaves one: a call that takes all of them waits
    for whatever wants one meanwhile, a broker or a browser, and nobody can tell how long.
    """
    return max(1, (cores() - 1) // max(1, devices))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def computing_environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that computes with torch, as its parent has to set it."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), **WAITING_THREADS}


def set_name(name: str) -> None:
    """Show `name` (15 bytes) in ps and top."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def collect_rarely() -> None:
    """Let the garbage collector pass seldom, and over what is made from now on only.

    Records and pipelines die by reference count; a full pass over torch's and diffusers' objects stops a
    process for a fifth of a second.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _prctl(option: int, value: int | bytes) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
