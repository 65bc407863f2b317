"""All that a worker can be told, and what it answers."""
