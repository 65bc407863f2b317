"""Images in registries: their names as docker spells them, and what a worker can be told of them.

The messages are part of ``worker.wire.orders``, and the rules for changing them are its.
"""

import re
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from filesync.digest import WireDigest
from filesync.errors import UsageError
from filesync.trees.select import Selector
from worker.wire.ops import Sha256 as Sha256
from worker.wire.ops import Text

DOCKER_HOST: Final = "docker.io"
MAX_NAME_CHARS: Final = 255
MAX_REFERENCE_CHARS: Final = 512
MAX_LAYERS: Final = 512
CONFIG_TYPES: Final = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
DOCKER_LAYER_TYPES: Final = {
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
"""Docker's types of layers, and what an OCI manifest calls the same bytes."""
LAYER_TYPES: Final = DOCKER_LAYER_TYPES | {
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
"""Those, and the types of layers that were not to be passed on, which nobody minds any more."""


def layer_type(said: str) -> str | None:
    """Return what a manifest of ours calls a layer of the type ``said``; None if it is unknown."""
    known = LAYER_TYPES.get(said, said)
    return known if known in _OWN_LAYER_TYPES else None


_OWN_LAYER_TYPES: Final = frozenset(LAYER_TYPES.values())

_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
    r"|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
)
_PATH: Final = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class BadReference(UsageError):
    """A text that names no image."""

    code = "bad-reference"


class Reference(msgspec.Struct, frozen=True):
    """An image in a registry.

    Attributes:
        host: the registry, ``docker.io`` where the user named none; with a port if it has one.
        path: the repository in it, ``library/alpine``.
        tag: may be empty where there is a digest.
        digest: ``sha256:…`` of a manifest or index, or empty. It decides, whatever the tag says.
    """

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """Host and path, which name where blobs are."""
        return f"{self.host}/{self.path}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}{'@' if self.digest else ''}{self.digest}"


def parse_reference(text: str) -> Reference:
    """Return the image that ``text`` names, with all that docker's users leave out.

    ``alpine`` is ``docker.io/library/alpine:latest``. A first part with a dot, a colon or a
    capital letter is a host, and so is ``localhost``.

    Raises:
        BadReference: it names none.
    """
    if len(text) > MAX_REFERENCE_CHARS:
        raise BadReference(f"{text[:40]!r}… is too long to name an image")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise BadReference(f"{text!r}: a digest is sha256: and 64 hex digits")
    host, slash, path = rest.partition("/")
    if not slash or not _is_host(host):
        host, path = DOCKER_HOST, rest
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise BadReference(f"{text!r}: {tag!r} is no tag")
    if host in ("index.docker.io", "registry-1.docker.io"):
        host = DOCKER_HOST
    if host == DOCKER_HOST and "/" not in path:
        path = f"library/{path}"
    _check(text, host, path)
    return Reference(host, path, tag or ("" if digest else "latest"), digest)


def parse_target(text: str) -> Reference:
    """Return where ``text`` says that an image goes; one without a tag is named by nothing there.

    Raises:
        BadReference: as ``parse_reference`` does.
    """
    reference = parse_reference(text)
    return (
        reference
        if ":" in text.rpartition("/")[2]
        else msgspec.structs.replace(reference, tag="")
    )


def _check(text: str, host: str, path: str) -> None:
    if not _HOST.fullmatch(host):
        raise BadReference(f"{text!r}: {host!r} is no host")
    if not all(map(_PATH.fullmatch, path.split("/"))):
        raise BadReference(
            f"{text!r} names no image: a name is small letters and digits, with single '.', "
            "'_', '-' and '/' between them"
        )
    if len(host) + len(path) + 1 > MAX_NAME_CHARS:
        raise BadReference(f"{text!r} is too long to name an image")


def _is_host(part: str) -> bool:
    return part == "localhost" or "." in part or ":" in part or part != part.lower()


Count = Annotated[int, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(max_length=MAX_REFERENCE_CHARS)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=100)]
MAX_CONFIG_BYTES: Final = 4 << 20
Config = Annotated[bytes, msgspec.Meta(max_length=MAX_CONFIG_BYTES)]
Annotations = Annotated[
    dict[Name, Annotated[str, msgspec.Meta(max_length=64 << 10)]], msgspec.Meta(max_length=100)
]
NewestTime = Annotated[int, msgspec.Meta(ge=0, lt=1 << 38)] | None
"""Seconds since 1970 that no file of a layer is newer than; None leaves times as they are."""


TOC_DIGEST: Final = "containerd.io/snapshot/stargz/toc.digest"
UNCOMPRESSED_SIZE: Final = "io.containers.estargz.uncompressed-size"
ZSTD_CHUNKED: Final = (
    (
        "io.github.containers.zstd-chunked.manifest-checksum",
        "io.github.containers.zstd-chunked.manifest-position",
    ),
    (
        "io.containers.zstd-chunked.manifest-checksum",
        "io.containers.zstd-chunked.manifest-position",
    ),
)
"""Where a zstd:chunked layer's table is: its digest and its place, now and as they once were."""
_SEEKABLE: Final = frozenset(
    {TOC_DIGEST, UNCOMPRESSED_SIZE, *(name for pair in ZSTD_CHUNKED for name in pair)}
)


class Layer(msgspec.Struct, frozen=True):
    """A ref's own layer blob, as OCI describes it.

    Attributes:
        imported: it came with an image, and stays what it is: it is never compressed otherwise.
        annotations: of its descriptor, by name: how parts of it can be read.
    """

    media_type: Text
    digest: Sha256
    size: Count
    diff_id: Sha256
    imported: bool = False
    annotations: Annotated[tuple[tuple[Name, Name], ...], msgspec.Meta(max_length=20)] = ()


def seekable_annotations(said: object) -> tuple[tuple[str, str], ...]:
    """Return what a descriptor's annotations say of how its layer can be read in parts.

    They stay with a layer wherever it goes; the others are its image's.
    """
    if not isinstance(said, dict):
        return ()
    known = ((name, said.get(name)) for name in sorted(_SEEKABLE))
    return tuple(
        (name, value)
        for name, value in known
        if isinstance(value, str) and len(value) <= MAX_REFERENCE_CHARS
    )


class Credential(msgspec.Struct, frozen=True):
    """What a user shows to one registry. It is passed on, and never stored or shown.

    Attributes:
        host: the only registry that may see it.
        user: with ``secret``; empty where there is an identity token.
        secret: a password or access token.
        identity_token: OAuth's refresh token.
    """

    host: Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARS)]
    user: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    secret: Annotated[str, msgspec.Meta(max_length=64 << 10)] = ""
    identity_token: Annotated[str, msgspec.Meta(max_length=64 << 10)] = ""

    def __repr__(self) -> str:
        return f"Credential({self.host!r})"


def credential_for(host: str, credentials: tuple[Credential, ...]) -> Credential | None:
    """Return the one that ``host`` may see."""
    return next((one for one in credentials if one.host == host), None)


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class ResolveImage(_Message, frozen=True, tag="resolve-image"):
    """Ask the registry what ``name`` is for a platform. -> Resolved.

    Attributes:
        name: a reference with nothing left out.
    """

    name: Name
    os: Name
    architecture: Name
    variant: Name = ""
    credential: Credential | None = None


class Resolved(_Message, frozen=True, tag="resolved"):
    """An image is there.

    Attributes:
        manifest: digest of its manifest (not of an index).
        config: its configuration, JSON.
    """

    manifest: Sha256
    config: Config


class FromRegistry(_Message, frozen=True, tag="registry"):
    """Pull an image's blobs into this worker's store; what is there already does not move.

    Attributes:
        repository: host and path.
        manifest: digest of the image's manifest.
        selector: what is read of the image. Where that can be told without applying its layers,
            it alone comes, as a source; else the blobs do.
    """

    repository: Name
    manifest: Sha256
    credential: Credential | None = None
    selector: Selector | None = None


class Compression(StrEnum):
    """How a layer's tar is compressed."""

    GZIP = "gzip"
    ZSTD = "zstd"
    ESTARGZ = "estargz"
    NONE = "uncompressed"


class PushImage(_Message, frozen=True, tag="push-image"):
    """Push ``ref`` as an image to ``names``; the manifest is that of an OCI export. -> Pushed.

    Attributes:
        config: the image configuration, JSON, without its ``rootfs``.
        names: references with nothing left out; one without a tag is not named but by its digest.
        compression: of the layers that were made here; an imported layer stays what it is.
        level: of that compression; None is the usual one.
        credentials: for the registries of ``names``.
        sources: (repository, manifest) of the images that it may be made of: a registry that
            has a layer in another repository of its own need not be sent it.
        annotations: of the image manifest.
        newest_s: for the layers that were made here; an imported layer stays what it is.
    """

    ref: WireDigest
    config: Config
    names: Names
    compression: Compression = Compression.GZIP
    level: int | None = None
    credentials: Annotated[tuple[Credential, ...], msgspec.Meta(max_length=100)] = ()
    sources: Annotated[tuple[tuple[Name, Sha256], ...], msgspec.Meta(max_length=1000)] = ()
    annotations: Annotations = msgspec.field(default_factory=dict)
    newest_s: NewestTime = None


class RelayImage(_Message, frozen=True, tag="relay-image"):
    """Push the layers of an image in a registry, which need not be here, as another. -> Pushed.

    What is pushed is what would be if the image had been pulled here and pushed as a result.

    Attributes:
        source: the image, with the credential for its own registry.
        config: as for PushImage, and so are those after it.
    """

    source: FromRegistry
    config: Config
    names: Names
    credentials: Annotated[tuple[Credential, ...], msgspec.Meta(max_length=100)] = ()
    annotations: Annotations = msgspec.field(default_factory=dict)


class Pushed(_Message, frozen=True, tag="pushed"):
    """An image is in its registries.

    Attributes:
        manifest: its digest and size.
        config: the digest of its configuration.
        bytes_sent: of blobs; those that the registries had already are not among them.
        mounted: layers that a registry took from another repository of its own.
    """

    manifest: tuple[Sha256, Count]
    config: Sha256
    bytes_sent: Count = 0
    mounted: Count = 0
