"""Moves file trees between machines. Knows nothing of builds."""
