"""What travels instead of contents: compressed frames, recipes of chunks, deltas."""
