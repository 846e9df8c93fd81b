"""What the live page shows, as values. Pure."""
