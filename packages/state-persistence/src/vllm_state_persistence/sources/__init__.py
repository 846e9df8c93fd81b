"""Where conversations are read from and written back to; one module per client."""
