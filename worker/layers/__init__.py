"""Layers: what a snapshot changed of its parent, as an OCI layer blob, made and applied."""

from worker.layers.apply import Applied, Limits, apply_layer, apply_tar, limits_of
from worker.layers.errors import BadLayer, BadSkeleton, NotALayer, naming_layer
from worker.layers.estargz import OWN_NAMES, own_names
from worker.layers.hardlinks import Groups
from worker.layers.make import (
    MEDIA_TYPES,
    USUAL_FORM,
    LayerForm,
    compress,
    make_layer,
    recompress,
    tar_blocks,
    tar_size,
)
from worker.layers.source import Stream

__all__ = [
    "MEDIA_TYPES",
    "OWN_NAMES",
    "USUAL_FORM",
    "Applied",
    "BadLayer",
    "BadSkeleton",
    "Groups",
    "LayerForm",
    "Limits",
    "NotALayer",
    "Stream",
    "apply_layer",
    "apply_tar",
    "compress",
    "limits_of",
    "make_layer",
    "naming_layer",
    "own_names",
    "recompress",
    "tar_blocks",
    "tar_size",
]
