"""docs/protocol.md says what the code does."""

import re
from pathlib import Path
from typing import get_args

import pytest

from filesync.sync.remote import wire as sync_wire
from filesync.transfer import wire
from filesync.transfer.coding import recipe
from filesync.transfer.connection.listener_zmq import LIMITS as LIMITS_OF_CONNECTIONS

TEXT = (Path(__file__).parents[3] / "docs/protocol.md").read_text()
LIMITS = re.findall(r"^\| `(MAX_\w+)` \| ([\d,]+) \|", TEXT, re.MULTILINE)


@pytest.mark.parametrize(("name", "value"), LIMITS)
def test_a_limit_in_the_text_is_the_codes(name: str, value: str) -> None:
    assert getattr(wire, name) == int(value.replace(",", ""))


def test_every_limit_of_the_code_is_in_the_text() -> None:
    limits = {name for name in vars(wire) if name.startswith("MAX_")} - {"MAX_INTEGER"}
    assert limits == {name for name, _ in LIMITS}


def test_every_message_is_in_the_text() -> None:
    for message in (*get_args(wire.Message), *get_args(sync_wire.Request)):
        assert f"`{message.__struct_config__.tag}`" in TEXT


def test_the_text_is_about_this_version_and_these_chunks() -> None:
    assert f"Version: {wire.VERSION}." in TEXT
    assert recipe.MIN_CHUNK_BYTES == 4 << 10
    assert (recipe.AVG_CHUNK_BYTES, recipe.MAX_CHUNK_BYTES) == (16 << 10, 64 << 10)


def test_the_text_says_what_connections_may_take() -> None:
    for limit in (
        LIMITS_OF_CONNECTIONS.connections,
        LIMITS_OF_CONNECTIONS.greeting_bytes,
        LIMITS_OF_CONNECTIONS.message_bytes,
        LIMITS_OF_CONNECTIONS.unfinished_bytes,
    ):
        assert f"{limit:,}" in TEXT
    assert f"to greet | {LIMITS_OF_CONNECTIONS.greeting_s:.0f} s" in TEXT
    assert LIMITS_OF_CONNECTIONS.queued_bytes == 8 * LIMITS_OF_CONNECTIONS.message_bytes
