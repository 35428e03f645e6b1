"""`python -m difs`: the command line."""

from difs.cli import main

main()
