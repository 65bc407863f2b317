"""How far a file has come that comes in pieces, in any order."""


class Prefix:
    """What has come of a file from its start on.

    Attributes:
        end: all bytes up to here have come.
    """

    def __init__(self) -> None:
        self.end = 0
        self._ahead: dict[int, int] = {}

    def note(self, offset: int, length: int) -> None:
        """Take note that these bytes have come; each does once."""
        self._ahead[offset] = offset + length
        while (end := self._ahead.pop(self.end, None)) is not None:
            self.end = end
