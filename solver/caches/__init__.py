"""Caches that leave the cluster: BuildKit's cache config, steps as its records. Pure."""
