"""What engines say at /metrics: the text, vLLM's names, one scrape as a value, histograms, counters over time. Pure."""
