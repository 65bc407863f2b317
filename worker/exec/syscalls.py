"""The system calls that fail in every container, as an OCI runtime's seccomp profile. Pure.

Most of what could hurt a machine needs a capability that no container has. These need none. Docker
allows what it knows and nothing else; a list of what may be is longer than this one by hundreds of
names, has to grow with each kernel, and what it stops beyond this is stopped by capabilities too.
"""

import errno
from typing import Any, Final

KEYRINGS: Final = ("add_key", "keyctl", "request_key")
"""Keyrings know no containers: the keys of the machine's root are those of root in each of them."""

KERNEL: Final = (
    "bpf",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "open_by_handle_at",
    "perf_event_open",
    "quotactl",
    "quotactl_fd",
    "syslog",
    "userfaultfd",
)
"""Large parts of a kernel that a build has no use for, and what tells of the whole machine."""

NEW_USER_NAMESPACE: Final = 0x10000000
"""In one of its own a command has every capability again: less than root's, and enough to try the kernel."""

VSOCK: Final = 40
"""Sockets to the machine that this one runs on, past its network."""

ARCHITECTURES: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
}
"""Whose programs a kernel also runs: a system call of an architecture that is not named ends its program."""


def profile(machine: str) -> dict[str, Any]:
    """Return the profile for ``machine``, as `uname` names it; one that is not known has one architecture."""
    # On s390 alone the flags are the second argument of clone.
    flags = 1 if machine.startswith("s390") else 0
    found: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            _refused(*KEYRINGS, *KERNEL),
            _refused("clone", where=_has(flags, NEW_USER_NAMESPACE)),
            _refused("unshare", where=_has(0, NEW_USER_NAMESPACE)),
            # Its flags are in memory, where no filter looks. A C library takes clone instead.
            _refused("clone3", code=errno.ENOSYS),
            _refused("socket", where={"index": 0, "value": VSOCK, "op": "SCMP_CMP_EQ"}),
        ],
    }
    if machine in ARCHITECTURES:
        found["architectures"] = list(ARCHITECTURES[machine])
    return found


def _has(index: int, flag: int) -> dict[str, Any]:
    return {"index": index, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}


def _refused(
    *names: str, code: int = errno.EPERM, where: dict[str, Any] | None = None
) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ERRNO", "errnoRet": code}
    if where is not None:
        rule["args"] = [where]
    return rule
