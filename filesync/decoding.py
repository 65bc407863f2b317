"""What goes wrong with bytes that are no MessagePack or JSON, or say what they may not."""

from typing import Final

import msgspec

UNDECODABLE: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What msgspec's decoders raise: also for what is nested too deep, and for text that is no UTF-8."""
