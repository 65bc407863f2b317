"""Annotations of ``-o``, spelt as BuildKit spells them."""

import re
from typing import Final, NamedTuple

from filesync.errors import UsageError

_KEY: Final = re.compile(
    r"annotation(?:-(?P<what>manifest|index|manifest-descriptor|index-descriptor))?"
    r"(?:\[(?P<platform>[^]]*)\])?\.(?P<name>.+)"
)


_OPTION: Final = re.compile(
    r"(?:(?P<what>[a-z-]+(?:,[a-z-]+)*)(?P<platform>\[[^]]*\])?:)?(?P<name>[^=:]+)=(?P<value>.*)",
    re.DOTALL,
)


class AnnotationKey(NamedTuple):
    """What an annotation is called and of what it is.

    Attributes:
        of_descriptor: of what an index says of the image, and not of its manifest.
        platform: the only one that it is for; empty for any.
    """

    name: str
    of_descriptor: bool
    platform: str


def annotation_key(key: str) -> AnnotationKey | None:
    """Return what ``annotation.NAME`` and its like name; None for other keys.

    Raises:
        UsageError: it is an annotation of what an image here has not.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    what, name = found["what"] or "manifest", found["name"]
    if what.startswith("index"):
        raise UsageError(
            f"{key}: an image of one platform has no index of its own that could be annotated;"
            f" write annotation.{name} or annotation-manifest-descriptor.{name}"
        )
    if found["platform"] == "":
        raise UsageError(f"{key}: name the platform, such as annotation[linux/amd64].{name}")
    return AnnotationKey(name, what == "manifest-descriptor", found["platform"] or "")


def parse_annotation(text: str) -> dict[AnnotationKey, str]:
    """Return what ``--annotation [TYPE,…[PLATFORM]:]NAME=VALUE`` asks for.

    Raises:
        UsageError: it cannot be understood, or is of what an image here has not.
    """
    found = _OPTION.fullmatch(text)
    if found is None:
        raise UsageError(f"--annotation {text}: write it as NAME=VALUE, or manifest:NAME=VALUE")
    keys = {}
    for what in (found["what"] or "manifest").split(","):
        key = annotation_key(f"annotation-{what}{found['platform'] or ''}.{found['name']}")
        if key is None:
            raise UsageError(
                f"--annotation {text}: {what!r} is none of manifest, manifest-descriptor"
            )
        keys[key] = found["value"]
    return keys
