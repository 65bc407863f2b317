"""Layers: what a snapshot changed of its parent, as an OCI layer blob, made and applied."""

from worker.layers.apply import Applied, Limits, apply_layer, limits_of
from worker.layers.errors import BadLayer, NotALayer
from worker.layers.make import (
    MEDIA_TYPES,
    LayerForm,
    make_layer,
    recompress,
    tar_blocks,
    tar_size,
    write_tar,
)

__all__ = [
    "MEDIA_TYPES",
    "Applied",
    "BadLayer",
    "LayerForm",
    "Limits",
    "NotALayer",
    "apply_layer",
    "limits_of",
    "make_layer",
    "recompress",
    "tar_blocks",
    "tar_size",
    "write_tar",
]
