"""Scans in a process of their own, beside this one: as threads they would take turns with it."""
