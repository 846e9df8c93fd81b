"""What the weights of a checkpoint are, by names and headers alone."""
