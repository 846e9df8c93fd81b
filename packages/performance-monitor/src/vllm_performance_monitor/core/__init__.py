"""What is made of samples: figures, words. Values in, values out."""
