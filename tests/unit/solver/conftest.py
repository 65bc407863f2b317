"""The world in which a manager is tested."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.solver.fakes import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A manager without sockets; at the end nothing may be left open."""
    made = World(tmp_path)
    yield made
    made.check_idle()
    made.shared.records.close()
