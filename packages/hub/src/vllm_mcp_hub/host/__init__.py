"""Thin adapters to the operating system: locks, folders, processes, devices."""
