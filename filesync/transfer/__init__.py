"""Moves the contents of offered trees between processes."""
