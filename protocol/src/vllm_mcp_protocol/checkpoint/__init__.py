"""What a model's small files say, in vLLM's reading of them. Pure."""
