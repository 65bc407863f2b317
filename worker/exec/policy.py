"""What every container gets, whatever the op says: Docker's defaults but for two capabilities."""

from typing import Final

CAPABILITIES: Final = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""Docker's set without CAP_MKNOD and CAP_NET_RAW.

Docker gives the first because its device cgroup decides what a node opens. No cgroup is used
here, so a node of the host's disk would open; /dev is a tmpfs where no ``nodev`` can stop it.
The second is for a network of the container's own: on the worker's it would hear what others say,
on loopback too.
"""

MASKED_PATHS: Final = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)

READ_ONLY_PATHS: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

STANDARD_MOUNTS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("/proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    (
        "/dev/pts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    ("/dev/shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)
"""(target, type, options). The runtime itself fills /dev: null, zero, full, random, urandom,
tty, ptmx, and the links to /proc/self/fd."""

ROOT_TARGETS: Final = ("/proc", "/dev", "/sys")
"""The standard mounts whose mount-points are in the root itself."""

OPEN_FILES: Final = (1024, 524288)
"""Soft and hard limit on open files; less where the worker's own hard limit is less."""

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
