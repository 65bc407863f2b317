"""Runs one operation's command in a container."""

from worker.exec.agents import Agents
from worker.exec.caches import CacheDirectories
from worker.exec.errors import (
    BadExec,
    BadSecret,
    CommandNotFound,
    NoRuntime,
    RuntimeFailed,
    SecretMissing,
    UserUnknown,
)
from worker.exec.operation import execute
from worker.exec.output import OnOutput, OutputTail
from worker.exec.runtime import find_runtime
from worker.exec.state import ExecState
from worker.exec.user import User, read_accounts, resolve_owner, resolve_user

__all__ = [
    "Agents",
    "BadExec",
    "BadSecret",
    "CacheDirectories",
    "CommandNotFound",
    "ExecState",
    "NoRuntime",
    "OnOutput",
    "OutputTail",
    "RuntimeFailed",
    "SecretMissing",
    "User",
    "UserUnknown",
    "execute",
    "find_runtime",
    "read_accounts",
    "resolve_owner",
    "resolve_user",
]
