"""Chaos on real processes: a service under load is hurt at random, and nothing may be lost or left.

    python -m tests.chaos --seconds 600 --seed 1

`plan` decides by the seed alone what happens when; `blows` does it; `ledger` keeps the accounts;
`storm` is one run. Simulated devices: what is tried is the service, not the painting.
"""
