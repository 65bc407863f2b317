"""What becomes of a result at the client."""
