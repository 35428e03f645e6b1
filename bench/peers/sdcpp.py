"""stable-diffusion.cpp: can its Python binding load a model's weights? So far not: nothing is timed.

python -m bench.peers.sdcpp FOLDER     loads it: a diffusers folder

The binding reads diffusers' folders and recognises a model by the names and shapes of its tensors. One
that it does not recognise it names, goes on, and crashes: hence a process of its own. Installing it
compiles it, so `.[bench]` leaves it out: `pip install stable-diffusion-cpp-python`.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

NAME = "stable-diffusion.cpp"
MODULE = "stable_diffusion_cpp"
REFUSED = "get sd version from file failed"
LOADED = "LOADED"
PATIENCE_S = 120.0


def why_not(model: Path) -> str:
    """Return why it is not measured, in its own words where it has any."""
    if find_spec(MODULE) is None:
        return f"{MODULE} is not installed"
    ran = subprocess.run(
        [sys.executable, "-m", "bench.peers.sdcpp", str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE_S,
        check=False,
    )
    return reason(ran.stdout.decode("utf-8", "replace"), model)


def reason(log: str, model: Path) -> str:
    """Read the reason from what a try printed; without the folder's path, which is of no interest."""
    for line in log.splitlines():
        if REFUSED in line:
            words = line.rpartition(" - ")[2].strip().replace(str(model), model.name)
            return f"it does not recognise this model by its tensors' names and shapes ({words})"
    if LOADED in log.splitlines():
        return "it loads these weights by now: teach the bench to drive it"
    return "it ended without a word while it loaded these weights"


def main(folder: str) -> None:
    """Try once, with its log on the standard output."""
    from stable_diffusion_cpp import StableDiffusion

    kept = StableDiffusion(model_path=folder, verbose=True)
    print(LOADED, flush=True)
    del kept  # where it did not load, this is the crash


if __name__ == "__main__":
    main(*sys.argv[1:])
