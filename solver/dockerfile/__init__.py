"""Dockerfiles: text in, build graph and image configuration out. Pure: no files, no clock."""

from solver.dockerfile.convert import convert
from solver.dockerfile.errors import DockerfileError, NoSuchImage
from solver.dockerfile.ignore import Ignore, ignore_matcher
from solver.dockerfile.options import (
    MAIN_CONTEXT,
    BaseImage,
    Converted,
    Options,
)
from solver.dockerfile.running import NETWORKS
from solver.dockerfile.stages import IMAGE_SCHEME
from solver.dockerfile.variables import SOURCE_DATE_EPOCH
from solver.dockerfile.vertices import reader_of, unknown_remotes, with_contexts, with_ops
from worker.wire.platforms import Platform

__all__ = [
    "IMAGE_SCHEME",
    "MAIN_CONTEXT",
    "NETWORKS",
    "SOURCE_DATE_EPOCH",
    "BaseImage",
    "Converted",
    "DockerfileError",
    "Ignore",
    "NoSuchImage",
    "Options",
    "Platform",
    "convert",
    "ignore_matcher",
    "reader_of",
    "unknown_remotes",
    "with_contexts",
    "with_ops",
]
