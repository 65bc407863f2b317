"""What tests of real processes share: a base image and clusters."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.processes import Cluster
from tests.integration.registries import BIG, RealRegistry, plain, start, umoci

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image layout made of this host's own programs, as a value of --build-context."""
    layout = tmp_path_factory.mktemp("base") / "layout"
    command = [sys.executable, str(EXAMPLES / "minimal_base.py"), "--output", str(layout)]
    subprocess.run(command, check=True, capture_output=True)
    return f"base=oci-layout://{layout}"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A manager and the workers w1 and w2; nothing of them stays mounted."""
    with Cluster(tmp_path / "cluster") as running:
        yield running
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(tmp_path) not in mounts


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Path]:
    """Write a build context: a Dockerfile and files by name."""

    def write(dockerfile: str, **files: str | bytes) -> Path:
        root = tmp_path / "context"
        root.mkdir(exist_ok=True)
        (root / "Dockerfile").write_text(dockerfile)
        for name, data in files.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        return root

    return write


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Start clusters of other shapes."""
    with ExitStack() as stack:

        def start(name: str, workers: int = 2) -> Cluster:
            return stack.enter_context(Cluster(tmp_path / name, workers=workers))

        yield start


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RealRegistry]:
    with RealRegistry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of three layers that umoci made, with a whiteout and a hard link."""
    layout = tmp_path / "image"
    umoci(tmp_path, "init", "--layout", str(layout))
    umoci(tmp_path, "new", "--image", f"{layout}:1")
    tag = ("--image", f"{layout}:1")
    first = tmp_path / "first"
    (first / "etc").mkdir(parents=True)
    (first / "etc/name").write_text("first\n")
    (first / "etc/gone").write_text("gone\n")
    os.link(first / "etc/name", first / "etc/link")
    second = tmp_path / "second"
    second.mkdir()
    (second / "big").write_bytes(BIG)
    umoci(tmp_path, "insert", *tag, str(first), "/")
    umoci(tmp_path, "insert", *tag, str(second), "/data")
    umoci(tmp_path, "insert", *tag, "--whiteout", "/etc/gone")
    config = ("config", *tag, "--architecture", "amd64", "--os", "linux")
    umoci(tmp_path, *config, "--config.env", "COLOUR=green", "--config.workingdir", "/data")
    return layout


@pytest.fixture
def registry_cluster(tmp_path: Path, registry: RealRegistry) -> Iterator[Cluster]:
    with start(tmp_path, plain(registry)) as running:
        yield running
