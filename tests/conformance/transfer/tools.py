"""Tools that make one tree equal to another, run as anybody runs them, and what each claims."""

import enum
import json
import os
import re
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

NOBODY = 65534
GROUPS = (70001, 70002)
"""Those that an ordinary user is in besides his own."""
TIMEOUT_S = 60

# The modules are loaded before the user is changed: where they are the new one may not look.
_AS_USER = """
import os, sys
from filesync.command import cli
from tests.forked import load
load("filesync")
user, *groups = map(int, sys.argv[1].split(","))
os.setgroups(groups)
os.setgid(user)
os.setuid(user)
cli.main(sys.argv[2:])
"""


class Claim(enum.Enum):
    """What not every tool of this kind does, or says that it does."""

    LINKED_SPECIALS = "several names of one FIFO, device or link are one again"
    LONG_PATHS = "paths over 4,096 bytes, directories 1,500 deep"
    SKIPS_SOCKETS = "sockets are skipped with a note"
    CONTENT_DECIDES = "content that neither size nor mtime shows is found"
    LEAVES_ALONE = "what is left out is not changed through another name either"
    REREADS = "a source that changes is read again, and what arrives is what is there"
    NAMES_LOSSES = "what cannot be kept is told once, by kind and count"
    NO_LISTS = "what has not changed costs no list of it"
    RESUMES_INSIDE = "a large file goes on from the middle"
    ONE_WRITER = "a second writer is refused with a sentence"
    HOLDS_DIRECTORIES = "nobody who plants links leads it out of the destination"
    SERVED_PATHS = "a destination on a server is reached through directories alone"


@dataclass(frozen=True, slots=True)
class Done:
    """A run that has ended.

    Attributes:
        moved: bytes of content, or on the wire, that it took; 0 if it failed.
    """

    code: int
    err: str
    moved: int


class Servers:
    """The servers that some tools need, each started when first asked for."""

    def __init__(self, root: Path, *, user: int | None) -> None:
        self.root = root
        self.user = user
        self.cache = root / "cache"
        self._running: list[subprocess.Popen[str]] = []
        self._daemons: list[subprocess.Popen[str]] = []
        self._addresses: dict[str, str] = {}

    def filesync(self) -> str:
        """Return the address of a `filesync serve` of ``root``."""
        return self._address("filesync", self._start_filesync)

    def rsync(self) -> str:
        """Return the address of an rsync daemon's module for ``root``."""
        return self._address("rsync", self._start_rsync)

    def close(self) -> None:
        for process in self._running:
            if process in self._daemons:
                process.kill()  # asked to end, it first sleeps for 0.4 s
            else:
                process.terminate()
            process.communicate(timeout=20)

    def _address(self, name: str, start: Callable[[], str]) -> str:
        if name not in self._addresses:
            self._addresses[name] = start()
        return self._addresses[name]

    def _start_filesync(self) -> str:
        words = ["serve", str(self.root), "--listen", "tcp://127.0.0.1:0", "--until-eof"]
        server = filesync_process(words, user=self.user, cache=self.cache)
        self._running.append(server)
        assert server.stdout is not None
        return server.stdout.readline().strip()

    def _start_rsync(self) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = self.root / "rsyncd.conf"
        # Without chroot it takes links for paths of its own, and changes them.
        owner = "use chroot = yes\nuid = 0\ngid = 0\n" if self.user is None else ""
        config.write_text(
            f"{owner or 'use chroot = no'}\nmunge symlinks = no\n"
            f"[all]\npath = {self.root}\nread only = no\n"
        )
        words = ["rsync", "--daemon", "--no-detach", "--address=127.0.0.1"]
        server = as_user([*words, f"--port={port}", f"--config={config}"], user=self.user)
        self._running.append(server)
        self._daemons.append(server)
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return f"rsync://127.0.0.1:{port}/all"
            time.sleep(0.01)
        raise AssertionError("the rsync daemon does not answer")


class Tool(ABC):
    """A command line that makes DEST equal SRC, extra names in DEST gone."""

    name: str
    needs: tuple[str, ...] = ()
    claims: frozenset[Claim] = frozenset()
    is_ours = False
    reads_backwards = False

    def __init__(self, servers: Servers) -> None:
        self.servers = servers

    @property
    def user(self) -> int | None:
        """Who runs it; None is the superuser."""
        return self.servers.user

    def start(
        self,
        src: Path,
        dst: Path,
        *,
        excludes: Sequence[str] = (),
        options: Sequence[str] = (),
        umask: int = 0o022,
        rate: str = "",
        deletes: bool = True,
    ) -> "Running":
        """Begin to make ``dst`` equal to ``src``, at most ``rate`` bytes a second."""
        rules = ["--delete"] * deletes
        rules += [*options, *(f"--exclude={pattern}" for pattern in excludes)]
        if rate:
            rules.append(f"--bwlimit={rate}")
        return Running(self, self._start(src, dst, rules, umask))

    def sync(
        self,
        src: Path,
        dst: Path,
        *,
        excludes: Sequence[str] = (),
        options: Sequence[str] = (),
        umask: int = 0o022,
        deletes: bool = True,
    ) -> Done:
        """Make ``dst`` equal to ``src``, but for what ``options`` say, which all tools have."""
        running = self.start(
            src, dst, excludes=excludes, options=options, umask=umask, deletes=deletes
        )
        return running.wait()

    def must_sync(self, src: Path, dst: Path, *, options: Sequence[str] = ()) -> Done:
        """Do it, and fail unless it says that it is done."""
        done = self.sync(src, dst, options=options)
        assert done.code == 0, done
        return done

    @abstractmethod
    def moved(self, out: str) -> int:
        """Return what a run says that it has moved."""

    @abstractmethod
    def _start(
        self, src: Path, dst: Path, rules: list[str], umask: int
    ) -> subprocess.Popen[str]: ...

    def _served(self, path: Path) -> str:
        return str(path.relative_to(self.servers.root))


class Running:
    """A run that has begun."""

    def __init__(self, tool: Tool, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._tool = tool

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT_S)

    def wait(self) -> Done:
        """Wait for its end, which must be one that a user can read."""
        try:
            out, err = self.process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        code = self.process.returncode
        assert code >= 0, f"it died of signal {-code}: {err}"
        assert "Traceback" not in err, err
        return Done(code, err, self._tool.moved(out) if code in (0, 23, 24) else 0)


# --- filesync ---------------------------------------------------------------------------------


class FilesyncLocal(Tool):
    name = "filesync"
    is_ours = True
    reads_backwards = True
    claims = frozenset(Claim) - {
        Claim.RESUMES_INSIDE,
        Claim.LINKED_SPECIALS,
        Claim.SERVED_PATHS,
    }

    def moved(self, out: str) -> int:
        figures = json.loads(out)
        wire: int = figures["wire_in"] + figures["wire_out"]
        content: int = figures["content_bytes"]
        return max(wire, content)

    def _start(
        self, src: Path, dst: Path, rules: list[str], umask: int
    ) -> subprocess.Popen[str]:
        words = ["sync", "--json", "--no-progress", *rules, *self._paths(src, dst)]
        return filesync_process(
            words, user=self.user, cache=self.servers.cache, umask=umask, stdin=None
        )

    def _paths(self, src: Path, dst: Path) -> tuple[str, str]:
        return f"{src}/", str(dst)


class FilesyncTo(FilesyncLocal):
    name = "filesync-to-server"
    reads_backwards = False
    claims = frozenset(Claim) - {Claim.LINKED_SPECIALS}

    def _paths(self, src: Path, dst: Path) -> tuple[str, str]:
        return f"{src}/", f"{self.servers.filesync()}/{self._served(dst)}"


class FilesyncFrom(FilesyncLocal):
    name = "filesync-from-server"
    reads_backwards = False
    claims = frozenset(Claim) - {Claim.LINKED_SPECIALS, Claim.SERVED_PATHS}

    def _paths(self, src: Path, dst: Path) -> tuple[str, str]:
        return f"{self.servers.filesync()}/{self._served(src)}/", str(dst)


# --- rsync ------------------------------------------------------------------------------------


class RsyncLocal(Tool):
    name = "rsync"
    needs = ("rsync",)
    claims = frozenset({Claim.LINKED_SPECIALS})

    def moved(self, out: str) -> int:
        found = re.findall(r"^Total bytes (?:sent|received): ([\d,]+)", out, re.MULTILINE)
        return sum(int(number.replace(",", "")) for number in found)

    def _start(
        self, src: Path, dst: Path, rules: list[str], umask: int
    ) -> subprocess.Popen[str]:
        words = ["rsync", "-aHAXS", "--devices", "--specials", "--numeric-ids"]
        words += ["--modify-window=-1", "--stats", *rules, *self._paths(src, dst)]
        return as_user(words, user=self.user, umask=umask)

    def _paths(self, src: Path, dst: Path) -> tuple[str, str]:
        return f"{src}/", str(dst)


class RsyncTo(RsyncLocal):
    name = "rsync-to-daemon"

    def _paths(self, src: Path, dst: Path) -> tuple[str, str]:
        return f"{src}/", f"{self.servers.rsync()}/{self._served(dst)}"


class RsyncFrom(RsyncLocal):
    name = "rsync-from-daemon"

    def _paths(self, src: Path, dst: Path) -> tuple[str, str]:
        return f"{self.servers.rsync()}/{self._served(src)}/", str(dst)


TOOLS: tuple[type[Tool], ...] = (
    FilesyncLocal,
    FilesyncTo,
    FilesyncFrom,
    RsyncLocal,
    RsyncTo,
    RsyncFrom,
)


def claimants(*claims: Claim, is_brief: bool = False) -> pytest.MarkDecorator:
    """Run a case for each tool that makes all of ``claims``; for all tools without any.

    ``is_brief`` leaves out rsync's daemon: for cases that take long, one rsync checks the suite.
    """
    return pytest.mark.parametrize(
        "tool",
        [
            pytest.param(tool, id=tool.name, marks=pytest.mark.needs("root", *tool.needs))
            for tool in TOOLS
            if tool.claims.issuperset(claims)
            and not (is_brief and issubclass(tool, RsyncTo | RsyncFrom))
        ],
        indirect=True,
    )


every_tool = claimants()
ours_and_rsync = claimants(is_brief=True)


# --- processes --------------------------------------------------------------------------------


def filesync_process(
    words: Sequence[str],
    *,
    user: int | None,
    cache: Path,
    umask: int = 0o022,
    stdin: int | IO[str] | None = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Start the command ``filesync`` as a user."""
    command = [sys.executable, "-m", "filesync", *words]
    if user is not None:
        ids = ",".join(map(str, (user, *GROUPS)))
        command = [sys.executable, "-c", _AS_USER, ids, *words]
    return _process(command, cache=cache, umask=umask, stdin=stdin)


def as_user(
    words: Sequence[str], *, user: int | None, umask: int = 0o022
) -> subprocess.Popen[str]:
    """Start an installed program as a user."""
    if user is not None:
        groups = "--groups=" + ",".join(map(str, GROUPS))
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", groups, *words]
    return _process(words, cache=None, umask=umask, stdin=subprocess.DEVNULL)


def _process(
    words: Sequence[str], *, cache: Path | None, umask: int, stdin: int | IO[str] | None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env=os.environ | ({"XDG_CACHE_HOME": str(cache)} if cache is not None else {}),
        umask=umask,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
    )
