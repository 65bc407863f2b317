"""Runs git on what strangers have made.

It gets no configuration but the one here, no hook, no filter, nobody to ask, and speaks to
nobody but web servers. A login goes to it in its environment, which other users cannot see.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from worker.exec.ending import guard, launched
from worker.exec.runtime import environment as bare_environment
from worker.git.errors import BadRepository, GitMissing
from worker.git.listing import MAX_BYTES

MAX_PRINTED_BYTES: Final = 64 << 20
MAX_MEMORY_BYTES: Final = 4 << 30
"""Of each process: git keeps in memory what a server says of refs, be it without end."""
SILENT_S: Final = 60
"""How long a server may send nothing; while it prepares what comes it says so every few seconds."""
_READ_BYTES: Final = 64 << 10
_TAIL_BYTES: Final = 8 << 10
_START: Final = (
    'umask 022; trap "" XFSZ; { ulimit -v "$1"; ulimit -f "$0"; } 2>/dev/null; shift; exec "$@"'
)
"""A file that grows over its bound is an error of git's, and not its end without a word. A bound that
cannot be set is above one that is there."""
_BLOCK_BYTES: Final = 512
_KILLING: Final = 'kill -s KILL -- "-$0"'
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CONFIG: Final = (
    "advice.detachedHead=false",
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.excludesFile=/dev/null",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.logAllRefUpdates=false",
    "core.packedGitLimit=1g",
    "core.packedGitWindowSize=64m",
    "core.symlinks=true",
    "credential.helper=",
    "fetch.recurseSubmodules=false",
    "fetch.unpackLimit=1",  # a pack is one file, whose size is bounded
    "gc.auto=0",
    "http.emptyAuth=false",
    "http.followRedirects=initial",
    "http.lowSpeedLimit=1",
    f"http.lowSpeedTime={SILENT_S}",
    "index.threads=1",  # what an index says depends on how many made it
    "maintenance.auto=false",
    "pack.threads=1",
    "submodule.recurse=false",
)


class GitFailed(Exception):
    """It ended with another status than 0; ``said`` is the end of what it said. Never leaves this package."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


class Git(msgspec.Struct, frozen=True):
    """The program, with a directory of its own that is removed with all that it may leave there."""

    program: str
    home: Path

    @classmethod
    def find(cls, home: Path) -> Self:
        """Return what runs git.

        Raises:
            GitMissing: it is not installed; says what to do.
        """
        program = shutil.which("git")
        if program is None:
            raise GitMissing(os.uname().nodename)
        return cls(program, home)

    async def run(
        self,
        *words: str,
        at: Path | None,
        tree: Path | None = None,
        config: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        given: bytes = b"",
        take: Callable[[bytes], None] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> bytes:
        """Run one command to its end and return what it prints, unless ``take`` takes that.

        When this returns, raises or is cancelled all its processes are gone.

        Args:
            words: the command; nothing in it is a secret.
            at: the repository's own directory, if there is one.
            tree: where its files are.
            config: what is to be configured beside what is for all.
            environment: what it gets beside what all get.
            given: its standard input.
            take: is given what is printed; what it raises ends the command.
            max_bytes: of any file that is written.

        Raises:
            GitFailed: its status was not 0.
            BadRepository: it prints too much.
        """
        printed, said = bytearray(), bytearray()

        def keep(block: bytes) -> None:
            printed.extend(block)
            if len(printed) > MAX_PRINTED_BYTES:
                raise BadRepository(f"git {words[0]} prints too much")

        def keep_end(block: bytes) -> None:
            said.extend(block)
            del said[:-_TAIL_BYTES]

        launch = asyncio.create_subprocess_exec(
            *self._bounded(max_bytes, config, words),
            cwd=tree or self.home,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(at, tree) | dict(environment or {}),
            start_new_session=True,  # so that its children are found, and no terminal is
        )
        try:
            async with launched(launch, _killing) as process:
                async with (
                    guard(process.pid, _killing(process.pid)),
                    asyncio.TaskGroup() as group,
                ):
                    group.create_task(_feed(process.stdin, given))
                    group.create_task(_pump(process.stdout, take or keep))
                    group.create_task(_pump(process.stderr, keep_end))
                status = await process.wait()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if status:
            raise GitFailed(said.decode(errors="replace"))
        return bytes(printed)

    def _bounded(
        self, max_bytes: int, config: Sequence[str], words: Sequence[str]
    ) -> list[str]:
        """Return the words that run a command that can take no more memory and disk than it may."""
        options = [word for one in (*_CONFIG, *config) for word in ("-c", one)]
        limits = (str(max(max_bytes // _BLOCK_BYTES, 1)), str(MAX_MEMORY_BYTES >> 10))
        return ["sh", "-c", _START, *limits, self.program, *options, *words]

    def _environment(self, at: Path | None, tree: Path | None) -> dict[str, str]:
        proxies = {
            name: os.environ[name]
            for one in _PROXIES
            for name in (one, one.upper())
            if name in os.environ
        }
        places = {"GIT_DIR": at or self.home / "none", "GIT_WORK_TREE": tree}
        return {
            **bare_environment(),
            **proxies,
            **{name: str(path) for name, path in places.items() if path is not None},
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
            "GIT_ALLOW_PROTOCOL": "",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "KRB5CCNAME": f"FILE:{os.devnull}",  # this machine's tickets are not for servers
        }


def _killing(pid: int) -> list[str]:
    """Return the words that end the process group ``pid``."""
    return ["sh", "-c", _KILLING, str(pid)]


async def _feed(writer: asyncio.StreamWriter | None, data: bytes) -> None:
    assert writer is not None
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _pump(reader: asyncio.StreamReader | None, take: Callable[[bytes], None]) -> None:
    assert reader is not None
    while data := await reader.read(_READ_BYTES):
        take(data)
