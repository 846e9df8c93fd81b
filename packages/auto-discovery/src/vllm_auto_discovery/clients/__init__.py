"""Clients' configuration files on this machine."""
