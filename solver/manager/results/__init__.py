"""Results without a build: found, held, moved, pruned."""
