"""Commits of git repositories behind URLs. The module ``fetching`` takes httpx: import it late."""

from worker.git.errors import BadRepository, GitMissing, GitRefMissing

__all__ = ["BadRepository", "GitMissing", "GitRefMissing"]
