"""What goes wrong with bytes that are no MessagePack or JSON or database, or say what they may not."""

import sqlite3
from typing import Final

import msgspec

UNDECODABLE: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What msgspec's decoders raise: also for what is nested too deep, and for text that is no UTF-8."""
DATABASE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite's module raises: it quotes what is wrong with a damaged schema, which may be no text."""
