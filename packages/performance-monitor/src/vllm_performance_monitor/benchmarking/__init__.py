"""Benchmarks as deeds: connections, clients, runs, and the files in which results are kept."""
