"""What can go wrong with a registry, by what the caller does about it."""

from filesync.errors import FilesyncError, PeerError


class RegistryError(FilesyncError):
    """A registry did not do what it was asked. Another one that has the same blob may."""

    code = "registry"


class RegistryUnavailable(RegistryError):
    """It cannot be reached, or went on failing. Trying later may help."""

    code = "registry-unavailable"


class RegistryBusy(RegistryError):
    """It asks for fewer requests, for longer than is worth waiting."""

    code = "registry-busy"


class RegistryDenied(RegistryError):
    """It wants to know who asks, or does not allow it to who does."""

    code = "registry-denied"


class NotInRegistry(RegistryError):
    """It does not have that image or blob."""

    code = "registry-missing"


class BadRegistry(RegistryError, PeerError):
    """What it says cannot be true: a lie about digest, length or type, or no protocol of ours."""

    code = "registry-malformed"


class NotAnImage(BadRegistry):
    """A manifest that is right and of something else: a signature, a chart, an attestation."""
