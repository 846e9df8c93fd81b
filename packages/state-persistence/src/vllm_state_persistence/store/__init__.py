"""The store: one SQLite file, everything sensitive in it sealed."""
