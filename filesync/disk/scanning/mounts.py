"""What a scan makes of directories on which another file system is mounted."""

import enum


class Mounts(enum.Enum):
    """What becomes of a directory that is on another file system than the one that it is in.

    What tells them is the device (``st_dev``), as everywhere: a directory that is mounted from elsewhere
    on the same file system is none of them. The values are those of the wire.
    """

    ENTERED = 0
    """It is a directory as any other."""
    EMPTY = 1
    """It is there, as what is mounted on it is, with nothing in it."""
    LEFT_OUT = 2
    """It is not there."""
    NOTED = 3
    """It is entered, and it is said that it is one."""
