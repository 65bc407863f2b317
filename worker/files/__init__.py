"""Runs one FileOp on a directory: copies and makes names in a tree nobody trusts."""

from worker.files.again import Again, Basis, copy_of, given_to, plan_again
from worker.files.errors import ArchiveRefused, BadMode, BadPath, PathInTheWay
from worker.files.perform import InputTree, perform, perform_again
from worker.files.tree import Tree

__all__ = [
    "Again",
    "ArchiveRefused",
    "BadMode",
    "BadPath",
    "Basis",
    "InputTree",
    "PathInTheWay",
    "Tree",
    "copy_of",
    "given_to",
    "perform",
    "perform_again",
    "plan_again",
]
