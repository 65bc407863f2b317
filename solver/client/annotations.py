"""Annotations of ``-o``, spelt as BuildKit spells them."""

import re
from typing import Final

from filesync.errors import UsageError

_KEY: Final = re.compile(
    r"annotation(?:-(?P<what>manifest|index|manifest-descriptor|index-descriptor))?"
    r"(?:\[(?P<platform>[^]]*)\])?\.(?P<name>.+)"
)


def annotation_name(key: str) -> str | None:
    """Return what ``annotation.NAME`` or ``annotation-manifest.NAME`` names; None for other keys.

    Raises:
        UsageError: it is an annotation of what an image here has not.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    if found["platform"] is not None:
        raise UsageError(
            f"{key}: an image is for one platform; write annotation.{found['name']}"
        )
    if found["what"] not in (None, "manifest"):
        raise UsageError(
            f"{key}: only an image's manifest takes annotations, for it is one image without an"
            f" index of its own; write annotation.{found['name']}"
        )
    return found["name"]
