"""What answers at an address, and how it is shown."""
