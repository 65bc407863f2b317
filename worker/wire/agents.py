"""A user's SSH agents: what a step asks of one, and what it answers.

What is said is the agent's own protocol (draft-ietf-sshm-ssh-agent), a message at a time without
its length. These messages are part of ``worker.wire.orders``, and the rules for changing them are its.
"""

from collections.abc import Collection
from typing import Annotated, Final

import msgspec

from worker.wire.images import Count
from worker.wire.ops import MAX_PATH_CHARS, Op, SshMount, given_to

MAX_AGENT_BYTES: Final = 256 << 10
"""Bound on one message, which is OpenSSH's."""
MAX_AGENTS: Final = 100
LENGTH_BYTES: Final = 4

AgentId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATH_CHARS)]
AgentIds = Annotated[tuple[AgentId, ...], msgspec.Meta(max_length=MAX_AGENTS)]
Said = Annotated[bytes, msgspec.Meta(max_length=MAX_AGENT_BYTES)]


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class AgentAsked(_Message, frozen=True, tag="agent-asked"):
    """Worker -> manager: a process of an order's step says something to an agent. -> AgentAnswered.

    Attributes:
        id: of the order.
        line: names the process's connection within the order; it waits for each answer.
        said: empty when it has ended, and then nobody answers.
    """

    id: Count
    agent: AgentId
    line: Count
    said: Said

    def __repr__(self) -> str:
        return f"AgentAsked({self.id}, {self.agent!r}, {self.line})"


class AgentAnswered(_Message, frozen=True, tag="agent-answered"):
    """Manager -> worker: what the agent answers; empty to end the connection."""

    id: Count
    line: Count
    said: Said

    def __repr__(self) -> str:
        return f"AgentAnswered({self.id}, {self.line})"


def agents_for(op: Op, agents: Collection[str]) -> tuple[str, ...]:
    """Return those that ``op`` names."""
    named = given_to(op, SshMount)
    return tuple(one for one in agents if one in named)


def length_of(head: bytes) -> int:
    """Return how many bytes follow the first LENGTH_BYTES of a message on an agent's socket.

    None follow that are to be read where it is too long: the connection cannot go on.
    """
    length = int.from_bytes(head)
    return length if length <= MAX_AGENT_BYTES else 0


def framed(said: bytes) -> bytes:
    """Return a message as it goes over an agent's socket."""
    return len(said).to_bytes(LENGTH_BYTES) + said
