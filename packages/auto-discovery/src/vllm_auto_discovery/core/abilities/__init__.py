"""What a model can do, and the evidence for it."""
