"""What a client and a manager say to each other of the client's SSH agents; see ``worker.wire.agents``.

The messages are part of ``solver.wire``, and the rules for changing them are its.
"""

import msgspec

from worker.wire.agents import AgentId, Said
from worker.wire.images import Count


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class AskAgent(_Message, frozen=True, tag="ask-agent"):
    """Manager -> client: a process of a step says something to ``agent``. -> AgentSaid.

    Attributes:
        line: names the process's connection within the build; it waits for each answer.
        said: empty when it has ended, and then nobody answers.
    """

    agent: AgentId
    line: Count
    said: Said

    def __repr__(self) -> str:
        return f"AskAgent({self.agent!r}, {self.line})"


class AgentSaid(_Message, frozen=True, tag="agent-said"):
    """Client -> manager: what the agent answers; empty to end the connection."""

    line: Count
    said: Said

    def __repr__(self) -> str:
        return f"AgentSaid({self.line})"
