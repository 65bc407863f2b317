"""Syncs over a remote shell: the server is started for one sync, and has only its pipes."""
