"""Samples of engines, GPUs and the host: taken, kept, and answered for."""
