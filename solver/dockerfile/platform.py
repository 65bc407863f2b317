"""The platform that an image is built for, as it is asked for and told."""

from collections.abc import Mapping
from typing import Final

from solver.dockerfile.errors import Invalid
from worker.wire.platforms import Platform

_KNOWN_OS: Final = frozenset({"linux", "windows", "darwin", "freebsd"})


def parse_platform(text: str, default: Platform) -> Platform:
    """Return the platform that ``text`` names; what it leaves out is the default's.

    Raises:
        Invalid: no platform.
    """
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(parts):
        raise Invalid(f"{text[:80]!r} is not a platform, such as linux/amd64", text)
    if len(parts) == 1:
        if parts[0] in _KNOWN_OS:
            return Platform(parts[0], default.architecture, default.variant)
        return Platform(default.os, parts[0])
    return Platform(parts[0], parts[1], parts[2] if len(parts) == 3 else "")


def platform_args(platform: Platform, *, target_stage: str) -> Mapping[str, str]:
    """Return the arguments that every Dockerfile may declare without giving a value."""
    args: dict[str, str] = {}
    for prefix in ("BUILD", "TARGET"):
        args[f"{prefix}PLATFORM"] = str(platform)
        args[f"{prefix}OS"] = platform.os
        args[f"{prefix}OSVERSION"] = ""
        args[f"{prefix}ARCH"] = platform.architecture
        args[f"{prefix}VARIANT"] = platform.variant
    args["TARGETSTAGE"] = target_stage or "default"
    return args
