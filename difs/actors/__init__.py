"""Actors: one process per device; the only place of torch and diffusers."""
