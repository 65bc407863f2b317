"""From one tree in a directory to another."""
