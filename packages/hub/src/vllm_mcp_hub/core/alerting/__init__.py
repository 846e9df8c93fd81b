"""Alerts: what is watched, when it is raised and cleared, and how news of it is delivered. Values in, values out."""
