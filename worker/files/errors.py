"""What a file op can ask for that cannot be done. All are the user's to mend."""

from filesync.errors import UsageError


class PathInTheWay(UsageError):
    """Something of another kind stands where the op has to write; remove it first."""

    code = "path-in-the-way"


class BadPath(UsageError):
    """A path that cannot be meant: a loop of links, a NUL, the root where a name is needed."""

    code = "bad-path"


class BadMode(UsageError):
    """A mode that is neither octal nor symbolic."""

    code = "bad-mode"


class ArchiveRefused(UsageError):
    """An archive that is damaged, leads out of its directory, or is over a limit."""

    code = "archive-refused"
