"""What is kept of samples: points, their rollups, and what a window of time adds up to. Values in, values out."""
