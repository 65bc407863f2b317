"""Holds snapshots and runs operations on one machine."""
