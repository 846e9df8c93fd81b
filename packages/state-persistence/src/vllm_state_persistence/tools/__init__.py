"""The tools of the server, one module per purpose; each has `register(server, work)`."""
