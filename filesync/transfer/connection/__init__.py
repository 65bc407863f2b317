"""Connections to other processes: addresses, keys, channels, and what cuts those that take too much."""
