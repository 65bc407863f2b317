"""The words of a ``-o``: those that we know, and docker's for what is always or never done here."""

import csv
from collections.abc import Mapping
from typing import Final

from filesync.errors import UsageError
from solver.client.outputs.annotations import AnnotationKey, annotation_key

_FIELDS: Final = (
    "type",
    "dest",
    "tar",
    "name",
    "push",
    "push-by-digest",
    "compression",
    "compression-level",
    "rewrite-timestamp",
    "source-date-epoch",
)
_TRUE: Final = ("", "1", "t", "T", "true", "True", "TRUE")
_FALSE: Final = ("0", "f", "F", "false", "False", "FALSE")
_SAME: Final = ("name-canonical", "oci-artifact", "store", "unpack")
"""Docker's switches that change nothing of what is made here: it has no store of images."""
_ALWAYS: Final[Mapping[str, tuple[bool, str]]] = {
    "force-compression": (
        False,
        "layers of images that are built upon stay what they are, so that registries need not be sent"
        " them again; leave it out",
    ),
    "oci-mediatypes": (
        True,
        "images have OCI's types, which docker reads as well; leave it out",
    ),
    "platform-split": (
        False,
        "there is one platform, and its files are not put in a directory of its"
        " name; write that into dest",
    ),
    "registry.insecure": (
        False,
        "write `http = true` for that registry into the file that workers are"
        " given with --registries",
    ),
}
"""Docker's switches that have one value here, and what is said to who wants the other."""


def parse_fields(text: str) -> tuple[dict[str, str], dict[AnnotationKey, str]]:
    """Return the fields of ``KEY=VALUE,…``, of which each may be quoted as CSV, and the annotations.

    Raises:
        UsageError: one is not known, or asks for what is not done.
    """
    try:
        (parts,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as exc:
        raise UsageError(f"-o {text}: {exc}") from exc
    fields: dict[str, str] = {}
    annotations: dict[AnnotationKey, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and (annotation := annotation_key(key)):
            annotations[annotation] = value
        elif equals and key in _FIELDS:
            fields[key] = value
        elif key in _SAME:
            _bool(text, key, value)
        elif key in _ALWAYS:
            done, instead = _ALWAYS[key]
            if _bool(text, key, value) is not done:
                raise UsageError(f"-o {text}: {part}: {instead}")
        else:
            known = f"{', '.join(_FIELDS)}, annotation.NAME"
            raise UsageError(f"-o {text}: {part!r} is none of {known}")
    return fields, annotations


def switch(text: str, fields: Mapping[str, str], key: str, *, default: bool = False) -> bool:
    """Return whether a field is true, in any way that docker's users write that: ``KEY=``, too.

    Raises:
        UsageError: it is neither true nor false; ``text`` is the whole option.
    """
    return _bool(text, key, fields[key]) if key in fields else default


def _bool(text: str, key: str, value: str) -> bool:
    if value not in (*_TRUE, *_FALSE):
        raise UsageError(f"-o {text}: {key} is true or false")
    return value in _TRUE
