"""How inputs can reach a worker, and are brought there."""
