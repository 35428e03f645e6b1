"""Measuring variants before they serve: what they cost on a device, and what their pictures are worth.

Pure: `cells`, `grid`, `curves`, `asking`, `reports`. Files: `store`. torch: `torch_meter`,
`torch_artist`, `peaks`, `clip`. A process of its own, `python -m difs.profiling`, measures;
`difs profile` starts it (`launch`) and shows how far it is (`display`).
"""
