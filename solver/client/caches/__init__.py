"""Caches as their user names them, and those on this machine."""
