"""The sending half: what is on offer, and what is sent of it."""
