"""The ``--flags`` of an instruction."""

from enum import Enum
from typing import Final

import msgspec

from solver.dockerfile.errors import Invalid
from solver.dockerfile.suggestion import did_you_mean
from solver.dockerfile.syntax import Instruction


class _Kind(Enum):
    TEXT = "text"
    TEXTS = "texts"
    BOOL = "bool"


_COPY: Final = {
    "chown": _Kind.TEXT,
    "chmod": _Kind.TEXT,
    "link": _Kind.BOOL,
    "exclude": _Kind.TEXTS,
}
_KNOWN: Final = {
    "FROM": {"platform": _Kind.TEXT},
    "COPY": {**_COPY, "from": _Kind.TEXT, "parents": _Kind.BOOL},
    "ADD": {
        **_COPY,
        "keep-git-dir": _Kind.BOOL,
        "checksum": _Kind.TEXT,
        "unpack": _Kind.BOOL,
    },
    "RUN": {
        "mount": _Kind.TEXTS,
        "network": _Kind.TEXT,
        "security": _Kind.TEXT,
        "device": _Kind.TEXTS,
    },
    "HEALTHCHECK": {
        "interval": _Kind.TEXT,
        "timeout": _Kind.TEXT,
        "start-period": _Kind.TEXT,
        "start-interval": _Kind.TEXT,
        "retries": _Kind.TEXT,
    },
}


class Flags(msgspec.Struct, frozen=True):
    """What the flags of one instruction say."""

    values: dict[str, tuple[str, ...]]

    def text(self, name: str) -> str:
        """Return the value of ``--name``, '' where it is not given."""
        return self.values.get(name, ("",))[0]

    def texts(self, name: str) -> tuple[str, ...]:
        """Return all values of a flag that may be repeated."""
        return self.values.get(name, ())

    def switch(self, name: str) -> bool | None:
        """Return a yes-or-no flag, None where it is not given."""
        values = self.values.get(name)
        return None if values is None else values[0] == "true"


def parse_flags(instruction: Instruction) -> Flags:
    """Return the flags of ``instruction``.

    Raises:
        Invalid: a flag that the instruction does not have, or that is given wrongly.
    """
    known = _KNOWN.get(instruction.keyword, {})
    values: dict[str, tuple[str, ...]] = {}
    for flag in instruction.flags:
        name, equals, value = flag.removeprefix("--").partition("=")
        kind = known.get(name)
        if kind is None:
            raise _unknown(instruction.keyword, name, tuple(known))
        if name in values and kind is not _Kind.TEXTS:
            raise Invalid(f"--{name} is given twice", f"--{name}")
        if kind is _Kind.BOOL:
            values[name] = (_switch(name, value, given=bool(equals)),)
        elif not equals:
            raise Invalid(f"--{name} needs a value: --{name}=…", f"--{name}")
        else:
            values[name] = (*values.get(name, ()), value)
    return Flags(values)


def _switch(name: str, value: str, *, given: bool) -> str:
    if not given:
        return "true"
    if value.lower() not in ("true", "false"):
        raise Invalid(f"--{name} is true or false, not {value!r}", f"--{name}")
    return value.lower()


def _unknown(keyword: str, name: str, known: tuple[str, ...]) -> Invalid:
    if not known:
        return Invalid(f"{keyword} has no flags, but is given --{name}", f"--{name}")
    guess = did_you_mean(f"--{name}", [f"--{flag}" for flag in known])
    listed = ", ".join(f"--{flag}" for flag in known)
    message = f"unknown flag of {keyword}: --{name}{guess}; {keyword} has {listed}"
    return Invalid(message, f"--{name}")
