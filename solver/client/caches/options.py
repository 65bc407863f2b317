"""The options ``--cache-to`` and ``--cache-from``: what they can say, in BuildKit's words."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from filesync.errors import UsageError
from solver.client.outputs.outputs import Output, compression_of
from solver.wire import CacheMode, CachePush
from worker.wire.images import parse_reference

INLINE_ARG: Final = "BUILDKIT_INLINE_CACHE"
"""The build argument that asks for an inline cache, as docker has long had it."""
_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_FORM: Final = ("mode", "image-manifest", "oci-mediatypes", "ignore-error")
_COMPRESSION: Final = ("compression", "compression-level", "force-compression")
_TO: Final = {
    "local": ("type", "dest", "tag", *_FORM),
    "registry": ("type", "ref", *_FORM, *_COMPRESSION),
    "inline": ("type", "mode"),
}
_FROM: Final = {"local": ("type", "src", "digest", "tag"), "registry": ("type", "ref")}


class CacheTo(msgspec.Struct, frozen=True):
    """One ``--cache-to type=local``.

    Attributes:
        image: write an image manifest, not an index.
        tag: what the layout's index calls it.
        ignore_error: that it cannot be written is told, and the build succeeds.
    """

    dest: Path
    mode: CacheMode = CacheMode.MIN
    image: bool = True
    tag: str = "latest"
    ignore_error: bool = False


class InlineCache(msgspec.Struct, frozen=True):
    """``--cache-to type=inline``: the cache goes into the image."""


class CacheSource(msgspec.Struct, frozen=True):
    """One ``--cache-from type=local``; ``digest``, if there is one, decides whatever ``tag`` says."""

    src: Path
    digest: str = ""
    tag: str = "latest"


class RegistrySource(msgspec.Struct, frozen=True):
    """One ``--cache-from type=registry``; ``name`` is a reference with nothing left out."""

    name: str


def parse_cache_to(text: str) -> CacheTo | CachePush | InlineCache:
    """Return what ``type=local|registry|inline,…`` asks for; a plain name is that of a registry's.

    Raises:
        UsageError: it cannot be understood.
    """
    option = f"--cache-to {text}"
    kind, fields = _fields(option, text, _TO)
    if kind == "inline":
        if fields.get("mode", "min") != "min":
            raise UsageError(f"{option}: an image has just its own layers: mode=min")
        return InlineCache()
    mode = fields.get("mode", "min")
    if mode not in tuple(CacheMode):
        raise UsageError(f"{option}: the mode is one of {', '.join(CacheMode)}")
    image = _is_true(option, fields, "image-manifest", default=True)
    oci = _is_true(option, fields, "oci-mediatypes", default=True)
    ignore_error = _is_true(option, fields, "ignore-error", default=False)
    if not oci and (image or kind == "local"):
        raise UsageError(
            f"{option}: docker's media types have no image manifest of a cache: add"
            " image-manifest=false, to a registry"
        )
    if kind == "local":
        tag = fields.get("tag") or "latest"
        return CacheTo(_directory(option, fields), CacheMode(mode), image, tag, ignore_error)
    compression, level = None, None
    if any(key in fields for key in _COMPRESSION[:2]):
        compression, level = compression_of(option, fields)
    name = _name(option, fields)
    return CachePush(name, CacheMode(mode), image, oci, compression, level, ignore_error)


def parse_cache_from(text: str) -> CacheSource | RegistrySource:
    """Return what ``type=local|registry,…`` names; a plain name is that of a registry's.

    Raises:
        UsageError: it cannot be understood.
    """
    option = f"--cache-from {text}"
    kind, fields = _fields(option, text, _FROM)
    if kind == "registry":
        if not fields.get("ref"):
            raise UsageError(f"{option}: say which: ref=REGISTRY/NAME:TAG")
        return RegistrySource(str(parse_reference(fields["ref"])))
    if not fields.get("src"):
        raise UsageError(f"{option}: say from where: src=DIR")
    digest = fields.get("digest", "")
    if digest and not _SHA256.match(digest):
        raise UsageError(f"{option}: a digest is sha256: and 64 hex digits")
    return CacheSource(Path(fields["src"]).absolute(), digest, fields.get("tag") or "latest")


def check_inline(outputs: Sequence[Output]) -> None:
    """Refuse an inline cache that would go nowhere.

    Raises:
        UsageError: no output is an image.
    """
    if not any(output.is_image for output in outputs):
        raise UsageError(
            "--cache-to type=inline goes into an image, and there is none: give -t NAME --push,"
            " or -o type=oci,dest=PATH"
        )


def _fields(
    option: str, text: str, known: Mapping[str, Sequence[str]]
) -> tuple[str, dict[str, str]]:
    """Return the type and all fields."""
    if text and "=" not in text:
        return "registry", {"ref": text}
    try:
        (parts,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as exc:
        raise UsageError(f"{option}: {exc}") from exc
    fields = dict(part.partition("=")[::2] for part in parts)
    kind = fields.get("type", "")
    if kind == "inline" and kind not in known:
        raise UsageError(f"{option}: say in which image it is: type=registry,ref=IMAGE")
    if kind not in known:
        names = ", ".join(known)
        raise UsageError(f"{option}: the type is one of {names}: type={next(iter(known))},…")
    for key in fields:
        if key not in known[kind]:
            raise UsageError(f"{option}: {key!r} is none of {', '.join(known[kind])}")
    return kind, fields


def _is_true(option: str, fields: Mapping[str, str], key: str, *, default: bool) -> bool:
    value = fields.get(key, str(default).lower())
    if value not in ("true", "false"):
        raise UsageError(f"{option}: {key} is true or false")
    return value == "true"


def _directory(option: str, fields: Mapping[str, str]) -> Path:
    if not fields.get("dest"):
        raise UsageError(f"{option}: say where to: dest=DIR")
    dest = Path(fields["dest"]).absolute()
    if not dest.parent.is_dir() or (dest.exists() and not dest.is_dir()):
        raise UsageError(f"{option}: {dest} is not a directory, and none can be made there")
    return dest


def _name(option: str, fields: Mapping[str, str]) -> str:
    if not fields.get("ref"):
        raise UsageError(f"{option}: say where to: ref=REGISTRY/NAME:TAG")
    reference = parse_reference(fields["ref"])
    if reference.digest:
        raise UsageError(f"{option}: a digest is not chosen, it is made; name a tag")
    return str(reference)
