"""Pure decisions of state persistence: no files, no clock, no randomness."""
