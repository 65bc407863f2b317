"""What may go from a worker's disk, and its going."""
