"""What can go wrong while a command runs in a container, split by what the caller does next."""

from filesync.errors import FilesyncError, UsageError


class NoRuntime(UsageError):
    """This machine cannot run containers at all; the sentence says what it lacks."""

    code = "no-runtime"


class BadExec(UsageError):
    """The op asks for what no container may have or can be: a target, a name, a NUL."""

    code = "bad-exec"


class UserUnknown(UsageError):
    """A user or group that the root's own account files do not name."""

    code = "user-unknown"


class SecretMissing(UsageError):
    """A secret that the op requires and the build was not given."""

    code = "secret-missing"

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return (
            f"the secret {self.id!r} is required and was not given: build with "
            f"--secret id={self.id},src=FILE"
        )


class BadSecret(UsageError):
    """A secret that can be in no environment. It has the reason, and nothing of the value."""

    code = "bad-secret"

    def __init__(self, id: str, env: str, reason: str) -> None:
        super().__init__(id, env, reason)
        self.id = id
        self.env = env
        self.reason = reason

    def __str__(self) -> str:
        return f"the secret {self.id!r} cannot be the variable {self.env}: {self.reason}"


class AgentMissing(UsageError):
    """An SSH agent that the op requires and the build was not given."""

    code = "agent-missing"

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"the SSH agent {self.id!r} is required and was not given: build with --ssh {self.id}"


class CommandNotFound(UsageError):
    """The command is not in the root, or is there and cannot be executed."""

    code = "command-not-found"

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(command, reason)
        self.command = command
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot run {self.command!r}: {self.reason}"


class RuntimeFailed(FilesyncError):
    """The runtime could not set the container up; the command never ran. Another worker may."""

    code = "runtime-failed"
