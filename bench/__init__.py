"""Benches: what is measured, against what, with which goal."""
