"""Runs tests that are coroutines; the world in which a manager is tested."""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.solver.fakes import World


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test; with hypothesis or without it the others are pytest's own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A manager without sockets; at the end nothing may be left open."""
    made = World(tmp_path)
    yield made
    made.check_idle()
    made.shared.records.close()
