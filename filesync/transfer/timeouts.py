"""How long peers are waited for."""

from typing import Final

import msgspec

LEAST_BYTES: Final = 16 << 10
"""What moves less while a peer is waited for is as good as silent: a byte a second is no progress. Bytes
count, not messages, of which a slow link takes minutes for one."""


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
