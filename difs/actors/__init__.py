"""Actors: one process per device; the only place of torch and diffusers.

The settings stand here because they must be there before either is imported: nothing may be asked of a
hub at run time, and what the libraries do not find is no news.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["DIFFUSERS_VERBOSITY"] = "error"
