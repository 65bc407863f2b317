"""Syncs with a ``filesync serve``: what both sides say, and do."""
