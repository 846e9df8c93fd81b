"""The Hugging Face cache on this machine, and the Hub behind it."""
