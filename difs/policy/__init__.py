"""Policies: pure functions from a frozen view and a request to a decision."""
