"""From a directory to its manifest."""
