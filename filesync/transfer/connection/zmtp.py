"""ZMTP 3 as who passes it on sees it: where messages begin and end (rfc.zeromq.org/spec/23)."""

from typing import Final

from filesync.errors import UnexpectedMessage

SIGNATURE_BYTES: Final = 10
_GREETING_BYTES: Final = 64
_VERSION: Final = 3
_MORE, _LONG = 1, 2
_FRAME_COST: Final = 64
"""What ZeroMQ keeps of a frame besides its bytes."""


def is_signature(data: bytes) -> bool:
    """Say whether ``data``, of ``SIGNATURE_BYTES``, begins a connection of ZeroMQ's."""
    return len(data) == SIGNATURE_BYTES and data[0] == 0xFF and data[-1] == 0x7F


class Framing:
    """Follows the bytes of one side of a connection, and bounds its messages.

    ZeroMQ bounds a frame, but keeps all frames of a message until the last has come.
    """

    def __init__(self, message_bytes: int) -> None:
        """A message may be of ``message_bytes``, with what its frames cost besides."""
        self._limit = message_bytes
        # What is not whole yet: the greeting, then a frame's header.
        self._head = bytearray()
        self._is_greeted = False
        self._body_left = 0
        self._message_bytes = 0

    def take(self, data: bytes) -> None:
        """Follow the next bytes, however they are cut.

        Raises:
            UnexpectedMessage: it is another protocol, or a message is too long.
        """
        at = 0
        while at < len(data):
            if self._body_left:
                step = min(self._body_left, len(data) - at)
                self._body_left -= step
            else:
                step = min(self._head_bytes() - len(self._head), len(data) - at)
                self._head += data[at : at + step]
                if len(self._head) == self._head_bytes():
                    self._begin()
            at += step

    def _head_bytes(self) -> int:
        if not self._is_greeted:
            return _GREETING_BYTES
        return 9 if self._head and self._head[0] & _LONG else 2

    def _begin(self) -> None:
        """Take a greeting or a header that is whole."""
        head = self._head
        if not self._is_greeted:
            signature, version = bytes(head[:SIGNATURE_BYTES]), head[SIGNATURE_BYTES]
            if not is_signature(signature) or version < _VERSION:
                raise UnexpectedMessage("what came is not ZMTP 3")
            self._is_greeted = True
        else:
            self._body_left = int.from_bytes(head[1:], "big")
            self._message_bytes += self._body_left + _FRAME_COST
            if self._message_bytes > self._limit:
                raise UnexpectedMessage("a message without an end")
            if not head[0] & _MORE:
                self._message_bytes = 0
        self._head = bytearray()
