"""Blobs on this worker's disk, as an OCI image layout."""

from worker.blobs.blob import BLOCK_BYTES, Blob, BlobMissing
from worker.blobs.store import KEEP_PARTIAL_S, BlobStore
from worker.blobs.writer import BlobWriter

__all__ = [
    "BLOCK_BYTES",
    "KEEP_PARTIAL_S",
    "Blob",
    "BlobMissing",
    "BlobStore",
    "BlobWriter",
]
