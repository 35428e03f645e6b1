"""Measuring variants before they serve: what they cost on a device, and what their pictures are worth.

Pure: `cells`, `grid`, `curves`, `agreement`'s arithmetic. Files: `store`. torch: `bench`, `peaks`, `studio`,
`clip`. A process of its own, `python -m difs.profiling`, measures; `difs profile` starts it and shows how
far it is.
"""
