"""A server that a remote shell starts for one sync: who may log in needs no other key."""

import asyncio
import os
import select
import shlex
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Final

from filesync.disk.handles import shown
from filesync.errors import Unavailable, UsageError
from filesync.sync.options import Shell
from filesync.sync.shell.relay import Relay
from filesync.transfer.connection.address import carried
from filesync.transfer.connection.unix import remove_sockets, socket_directory
from filesync.transfer.connection.zmtp import SIGNATURE_BYTES, is_signature
from filesync.transfer.errors import GreetingBroken, NotLetIn
from filesync.transfer.stats import Moved

_END_S: Final = 5.0
_NOT_FOUND: Final = 127
_NO_LOGIN: Final = 255
_SHOWN_BYTES: Final = 200
_BEGINS: Final = b"\xff\0"
"""What a server says begins so; that is for no reader."""
_SAYS_S: Final = 0.2
_HEARD_S: Final = 0.05
"""Within which a signal is heard that others had at the same time."""


@asynccontextmanager
async def reached(host: str, shell: Shell) -> AsyncIterator[tuple[str, Callable[[], Moved]]]:
    """Run a server on ``host`` as long as the block lasts; give the address at which to dial it.

    And what tells how much the connection to it has carried.

    What the remote shell has to say or to ask goes to the terminal, past this.

    Raises:
        UsageError: the remote shell cannot be run, or this is no name of a host.
        Unavailable: no server began to speak; or, out of the block, why the connection was lost.
    """
    remote = _Remote(host, shell)
    try:
        async with _interrupts_first():
            address = await remote.dialable()
            try:
                yield address, remote.moved
            except Unavailable as exc:
                # Nobody asks for keys here: what was no greeting is no server.
                if type(exc) not in (Unavailable, GreetingBroken, NotLetIn):
                    raise
                raise remote.lost() from exc
    finally:
        remote.close()


@asynccontextmanager
async def _interrupts_first() -> AsyncIterator[None]:
    """Let a Ctrl-C be an interrupt, and no failure: at a terminal it ends the remote shell, too."""
    try:
        yield
    except Unavailable:
        await asyncio.sleep(_HEARD_S)
        raise


class _Remote:
    """The remote shell's process, and what carries one connection over its pipes."""

    def __init__(self, host: str, shell: Shell) -> None:
        self._host = host
        self._shell = shell
        self._words = [*_command(shell), host, shell.program, "serve", "--stdio"]
        if host.startswith("-"):  # the remote shell would take it for an option
            raise UsageError(f"{host} is no name of a host")
        try:
            self._process = subprocess.Popen(
                self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except OSError as exc:
            raise UsageError(
                f"{self._words[0]} cannot be run: {exc.strerror}; name a remote shell with -e"
            ) from exc
        self._stack = ExitStack()
        self._relay: Relay | None = None

    async def dialable(self) -> str:
        """Return the address to dial, when the server has begun to speak."""
        begun = await self._read_signature()
        if not is_signature(begun):
            raise self._no_server(begun)
        path = self._stack.enter_context(socket_directory()) / "socket"
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(os.fsencode(path))
        listener.listen(1)
        carrying = Thread(
            target=self._carry, args=(listener, path, begun), name="filesync-shell"
        )
        carrying.start()
        self._stack.callback(carrying.join)
        self._stack.callback(listener.shutdown, socket.SHUT_RDWR)
        return carried(path)

    def moved(self) -> Moved:
        """Return how much was carried, once somebody has dialled."""
        return Moved() if self._relay is None else self._relay.moved

    def lost(self) -> Unavailable:
        """Return why the connection is lost."""
        code = self._wait()
        how = f": {self._words[0]} ended with {code}" if code else ""
        return Unavailable(
            f"the connection to {self._host} is lost{how}; run again: what has come whole stays"
        )

    def close(self) -> None:
        """End the server, if it has not ended."""
        self._stack.close()
        if self._relay is not None:
            self._relay.close()
        else:
            self._process.terminate()
        if self._wait() is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()

    def _wait(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(_END_S)
        return None

    @property
    def _source(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    async def _read_signature(self) -> bytes:
        # Not in a thread: who interrupts a login does not wait for it.
        data = b""
        while len(data) < SIGNATURE_BYTES:
            await _readable(self._source)
            more = os.read(self._source, SIGNATURE_BYTES - len(data))
            if not more:
                break
            data += more
        return data

    def _no_server(self, said: bytes) -> Unavailable:
        """Return why no server came to speak, by what was said instead."""
        if said:
            while (
                select.select([self._source], [], [], _SAYS_S)[0] and len(said) < _SHOWN_BYTES
            ):
                more = os.read(self._source, _SHOWN_BYTES)
                if not more:
                    break
                said += more
            noise = said.partition(_BEGINS)[0] or said
            return Unavailable(
                f"{self._host} says {shown(noise[:_SHOWN_BYTES])} before `{self._shell.program}` "
                "is begun; its shell has to say nothing when nobody sits there"
            )
        code = self._wait()
        if code == _NOT_FOUND:
            return Unavailable(
                f"{self._host} has no `{self._shell.program}`; install it there, or say with "
                "--filesync-path where it is"
            )
        words = shlex.join(self._words)
        if code == _NO_LOGIN:
            return Unavailable(
                f"`{words}` ended with 255, as ssh does when it cannot connect or log in; "
                "what it says of that is above"
            )
        return Unavailable(f"`{words}` ended with {code} and said nothing")

    def _carry(self, listener: socket.socket, path: Path, begun: bytes) -> None:
        """Take the one connection that is dialled, and carry it."""
        assert self._process.stdin is not None
        with suppress(OSError):
            own, _ = listener.accept()
            remove_sockets(path.parent)
            sink = os.dup(self._process.stdin.fileno())
            self._process.stdin.close()
            relay = Relay(own, self._source, sink, before=begun)
            relay.start()
            self._relay = relay


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    is_readable = asyncio.Event()
    loop.add_reader(fd, is_readable.set)
    try:
        await is_readable.wait()
    finally:
        loop.remove_reader(fd)


def _command(shell: Shell) -> list[str]:
    try:
        words = shlex.split(shell.command)
    except ValueError as exc:
        raise UsageError(f"-e {shell.command}: {exc}") from exc
    if not words:
        raise UsageError("-e names no remote shell")
    return words
