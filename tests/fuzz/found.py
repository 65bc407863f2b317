"""Inputs that once did what they should not: each with its target and what came of it."""

FOUND: list[tuple[str, bytes]] = []
