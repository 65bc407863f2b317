"""Where the cases of this folder work, and the tools that they run."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.transfer.tools import NOBODY, Servers, Tool


class Stage:
    """A directory of one case's own.

    Attributes:
        root: the directory.
        src: to be made by the case.
        dst: to be made by the tool.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.src = root / "src"
        self.dst = root / "dst"


@pytest.fixture(scope="session")
def theatre() -> Iterator[Path]:
    """Where all stages are; what is there may be too deep for shutil."""
    root = Path(tempfile.mkdtemp(prefix="filesync-conformance-"))
    root.chmod(0o711)
    yield root
    subprocess.run(["rm", "-rf", str(root)], check=True)


@pytest.fixture(scope="session")
def servers(theatre: Path) -> Iterator[Servers]:
    """Servers of the superuser, for all cases."""
    running = Servers(theatre, user=None)
    yield running
    running.close()


@pytest.fixture
def stage(theatre: Path) -> Iterator[Stage]:
    made = Stage(Path(tempfile.mkdtemp(dir=theatre)))
    yield made
    subprocess.run(["rm", "-rf", str(made.root)], check=True)


@pytest.fixture
def tool(request: pytest.FixtureRequest, servers: Servers) -> Tool:
    """The tool of this case, run by the superuser."""
    kind: type[Tool] = request.param
    return kind(servers)


@pytest.fixture
def ordinary(tool: Tool, stage: Stage) -> Iterator[Tool]:
    """The tool of this case, run by a user who may do nothing special, as are its servers."""
    os.chown(stage.root, NOBODY, NOBODY)
    running = Servers(stage.root, user=NOBODY)
    yield type(tool)(running)
    running.close()
