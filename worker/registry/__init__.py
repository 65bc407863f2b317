"""Registries by OCI's distribution protocol. The modules ``*_http`` take httpx: import them late."""

from worker.registry.config import DEFAULT_FILE, Host, Registries, read_registries
from worker.registry.errors import (
    BadRegistry,
    NotInRegistry,
    RegistryBusy,
    RegistryDenied,
    RegistryError,
    RegistryUnavailable,
)
from worker.registry.manifest import ImageManifest, parse_manifest
from worker.wire.platforms import Platform

__all__ = [
    "DEFAULT_FILE",
    "BadRegistry",
    "Host",
    "ImageManifest",
    "NotInRegistry",
    "Platform",
    "Registries",
    "RegistryBusy",
    "RegistryDenied",
    "RegistryError",
    "RegistryUnavailable",
    "parse_manifest",
    "read_registries",
]
