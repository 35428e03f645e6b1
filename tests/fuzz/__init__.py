"""Fuzzing of everything that reads bytes: see `__main__` for long runs, `test_fuzz` for the short one."""
