"""Runs one FileOp on a directory: copies, makes and removes names in a tree nobody trusts."""

from worker.files.errors import ArchiveRefused, BadMode, BadPath, PathInTheWay
from worker.files.perform import InputTree, Performed, perform

__all__ = [
    "ArchiveRefused",
    "BadMode",
    "BadPath",
    "InputTree",
    "PathInTheWay",
    "Performed",
    "perform",
]
