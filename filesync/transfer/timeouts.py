"""How long peers are waited for."""

import msgspec


class Timeouts(msgspec.Struct, frozen=True):
    """How long a pull waits for its peers.

    Attributes:
        opening_s: to connect and greet, and then for the session to be opened.
        serve_s: for a sender that cannot listen to dial us.
        stall_s: without progress while something is wanted.
    """

    opening_s: float = 10.0
    serve_s: float = 30.0
    stall_s: float = 60.0
