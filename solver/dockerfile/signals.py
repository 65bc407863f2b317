"""Names of Linux's signals."""

import re
from typing import Final

from solver.dockerfile.errors import Invalid
from solver.dockerfile.suggestion import did_you_mean

_NAMES: Final = frozenset(
    {
        "ABRT",
        "ALRM",
        "BUS",
        "CHLD",
        "CLD",
        "CONT",
        "FPE",
        "HUP",
        "ILL",
        "INT",
        "IO",
        "IOT",
        "KILL",
        "PIPE",
        "POLL",
        "PROF",
        "PWR",
        "QUIT",
        "SEGV",
        "STKFLT",
        "STOP",
        "SYS",
        "TERM",
        "TRAP",
        "TSTP",
        "TTIN",
        "TTOU",
        "UNUSED",
        "URG",
        "USR1",
        "USR2",
        "VTALRM",
        "WINCH",
        "XCPU",
        "XFSZ",
        "RTMIN",
        "RTMAX",
    }
)
_REAL_TIME: Final = re.compile(r"RTMIN\+([1-9]|1[0-5])|RTMAX-([1-9]|1[0-4])")


def check_signal(text: str) -> None:
    """Raise Invalid unless ``text`` names a signal: ``SIGTERM``, ``term``, ``15``."""
    if re.fullmatch(r"[0-9]{1,2}", text) and 1 <= int(text) <= 64:
        return
    name = text.upper().removeprefix("SIG")
    if name not in _NAMES and not _REAL_TIME.fullmatch(name):
        guess = did_you_mean(text, [f"SIG{known}" for known in _NAMES])
        raise Invalid(f"{text[:80]!r} is not a signal{guess}", text)
