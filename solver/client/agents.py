"""The option ``--ssh``, and the SSH agents that it names: what steps may ask of them.

A step signs with the user's keys while it runs. It learns no key, and may change nothing about the
agent: what else it asks for is answered as by an agent that cannot do it.
"""

import asyncio
import contextlib
import os
import stat
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from filesync.errors import UsageError
from solver.wire import AgentSaid, AskAgent
from worker.wire.agents import LENGTH_BYTES, MAX_AGENTS, framed, length_of
from worker.wire.ops import MAX_PATH_CHARS

VARIABLE: Final = "SSH_AUTH_SOCK"
_REQUEST_IDENTITIES: Final = 11
_SIGN_REQUEST: Final = 13
_EXTENSION: Final = 27
_BIND: Final = b"session-bind@openssh.com"
_FAILURE: Final = bytes([5])

Say = Callable[[AgentSaid], Awaitable[None]]


def read_agents(texts: Sequence[str]) -> dict[str, Path]:
    """Return the sockets that the ``--ssh`` options name, by id; of two with one id the last counts.

    Raises:
        UsageError: one cannot be understood, or no agent is there.
    """
    agents = dict(map(_read_agent, texts))
    if len(agents) > MAX_AGENTS:
        raise UsageError(f"--ssh: {len(agents)} agents are more than {MAX_AGENTS}")
    return agents


def _read_agent(text: str) -> tuple[str, Path]:
    option = f"--ssh {text}"
    name, equals, path = text.partition("=")
    if not name or len(name) > MAX_PATH_CHARS or not name.isprintable():
        raise UsageError(f"{option}: write default, or ID=SOCKET")
    if not equals:
        path = os.environ.get(VARIABLE, "")
        if not path:
            raise UsageError(
                f"{option}: there is no {VARIABLE}; start an agent (eval $(ssh-agent); ssh-add), "
                f"or name its socket: --ssh {name}=SOCKET"
            )
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UsageError(f"{option}: {path}: {reason}; name an agent's socket") from exc
    if not is_socket:
        raise UsageError(
            f"{option}: {path} is no agent's socket; give a key to an agent "
            f"(eval $(ssh-agent); ssh-add {path}) and write --ssh {name}"
        )
    return name, Path(path)


class Agents:
    """Answers what steps ask of a user's agents.

    Args:
        sockets: of the agents, by id.
        say: sends an answer to the manager.
    """

    def __init__(self, sockets: Mapping[str, Path], say: Say) -> None:
        self._sockets = sockets
        self._say = say
        self._lines: dict[int, _Line] = {}

    def ask(self, question: AskAgent) -> None:
        """Have something answered; never waits."""
        number = question.line
        line = self._lines.get(number)
        if not question.said:
            if line is not None:
                line.task.cancel()
            return
        if line is None:
            asked: asyncio.Queue[bytes] = asyncio.Queue()
            carrying = self._carry(number, self._sockets.get(question.agent), asked)
            line = self._lines[number] = _Line(asked, asyncio.create_task(carrying))
            line.task.add_done_callback(lambda _: self._lines.pop(number))
        line.asked.put_nowait(question.said)

    async def close(self) -> None:
        """End all connections."""
        tasks = [line.task for line in self._lines.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, number: int, path: Path | None, asked: asyncio.Queue[bytes]) -> None:
        """Answer one process of a step until it ends, or the agent does."""
        with contextlib.suppress(OSError, EOFError):
            async with _connected(path) as (reader, writer):
                while answer := await _answered(await asked.get(), reader, writer):
                    await self._say(AgentSaid(number, answer))
        await self._say(AgentSaid(number, b""))


class _Line(NamedTuple):
    """The connection of a step's process: what it has asked, and who answers."""

    asked: asyncio.Queue[bytes]
    task: asyncio.Task[None]


def is_allowed(said: bytes) -> bool:
    """Say whether a step may say that to an agent: which keys there are, and to sign."""
    if said[0] != _EXTENSION:
        return said[0] in (_REQUEST_IDENTITIES, _SIGN_REQUEST)
    # The agent is told for whom it signs; it may keep a key for some hosts only.
    return said[1:].startswith(framed(_BIND))


@contextlib.asynccontextmanager
async def _connected(path: Path | None) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    if path is None:
        raise FileNotFoundError("no such agent was given")
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _answered(said: bytes, reader: StreamReader, writer: StreamWriter) -> bytes:
    """Return what an agent answers; b"" where that is no answer."""
    if not is_allowed(said):
        return _FAILURE
    writer.write(framed(said))
    await writer.drain()
    return await reader.readexactly(length_of(await reader.readexactly(LENGTH_BYTES)))
