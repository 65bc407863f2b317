"""``filesync manifest``: what a tree holds, as a file."""
