"""A client's caches in one build: what comes from them, and what goes into them."""
