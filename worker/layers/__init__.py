"""Layers: what a snapshot changed of its parent, as an OCI layer blob, made and applied."""

from worker.layers.apply import Applied, Limits, apply_layer
from worker.layers.errors import BadLayer, NotALayer
from worker.layers.make import (
    MEDIA_TYPES,
    Compression,
    make_layer,
    tar_blocks,
    tar_size,
    write_tar,
)

__all__ = [
    "MEDIA_TYPES",
    "Applied",
    "BadLayer",
    "Compression",
    "Limits",
    "NotALayer",
    "apply_layer",
    "make_layer",
    "tar_blocks",
    "tar_size",
    "write_tar",
]
