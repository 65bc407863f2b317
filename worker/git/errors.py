"""What can go wrong with a repository beside what can with any web server (``worker.registry.errors``)."""

from filesync.errors import PeerError, UsageError


class GitMissing(UsageError):
    """This worker has no git. Another one may."""

    code = "git-missing"

    def __init__(self, machine: str) -> None:
        super().__init__(machine)
        self.machine = machine

    def __str__(self) -> str:
        return (
            f"the worker on {self.machine} has no git, which ADD of a git repository needs:"
            " install it there (Debian: apt-get install git)"
        )


class GitRefMissing(UsageError):
    """A repository has no ref of that name, or no such commit."""

    code = "git-ref-missing"


class BadRepository(PeerError):
    """A repository holds what cannot be made into a tree, or is over a limit."""

    code = "git-malformed"
