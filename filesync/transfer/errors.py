"""What can go wrong between two peers, beyond ``filesync.errors``."""

from filesync.errors import PeerError, Unavailable, UsageError


class NotOffered(PeerError):
    """A receiver asked for a token, a content or a range that is not on offer to it."""

    code = "not-offered"


class TooMuchWanted(PeerError):
    """A receiver has more wants outstanding than any honest one needs."""

    code = "too-much-wanted"


class VersionMismatch(Unavailable):
    """The peer speaks another version of the protocol."""

    code = "version-mismatch"


class Refused(Unavailable):
    """The peer ended the session and said why.

    Attributes:
        reason: the ``code`` of the peer's own error.
        detail: its sentence, for people only, on one line.
        path: of what changed there, from the root of the tree that was asked for on; b"" if
            that is not the reason.
    """

    code = "refused"

    def __init__(self, reason: str, detail: str, path: bytes = b"") -> None:
        super().__init__(reason, detail, path)
        self.reason = reason
        self.detail = " ".join(detail.split())
        self.path = path

    def __str__(self) -> str:
        return f"the other side refused: {self.detail}"


class UnknownHost(Unavailable):
    """No address is known for the name of a host.

    Attributes:
        name: the host's.
        reason: what the resolver says.
    """

    code = "unknown-host"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"no IPv4 address is known for the name {self.name} ({self.reason}); give another, "
            "or an address: tcp://192.0.2.7:7701 or tcp://[2001:db8::7]:7701"
        )


class NotLetIn(Unavailable):
    """Keys do not fit: the peer does not know ours, or is not who it should be."""

    code = "not-let-in"


class GreetingBroken(Unavailable):
    """The connection ended in the middle of the handshake: a bad link, or keys that do not fit.

    ZeroMQ does not say which. Try again; keys that do not fit break each greeting.
    """


class InsecureListen(UsageError):
    """Listening off loopback without encryption was not allowed."""

    code = "insecure-listen"
