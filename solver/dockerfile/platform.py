"""The platform that an image is built for."""

from collections.abc import Mapping
from typing import Final

import msgspec

from solver.dockerfile.errors import Invalid

_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "armhf": "arm",
    "armel": "arm",
}
_KNOWN_OS: Final = frozenset({"linux", "windows", "darwin", "freebsd"})
_DEFAULT_VARIANTS: Final = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


class Platform(msgspec.Struct, frozen=True):
    """Operating system, architecture and variant, in Go's words (``linux/arm64/v8``)."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def is_same(self, other: "Platform") -> bool:
        """Whether both name one platform, a variant left out being the usual one."""
        return _normal(self) == _normal(other)


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


def _normal(platform: Platform) -> tuple[str, str, str]:
    architecture = _ARCHITECTURES.get(platform.architecture, platform.architecture)
    variant = platform.variant or _DEFAULT_VARIANTS.get(architecture, "")
    return platform.os, architecture, variant
