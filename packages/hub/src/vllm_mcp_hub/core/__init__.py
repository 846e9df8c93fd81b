"""Pure decisions: events in, effects out. No clock, no IO, no randomness."""
