"""Benchmarks as values: what is asked, when, what came of it, and what that says."""
