"""Caches in registries that fail while they are used: a warning, and the build goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.processes import Cluster, run
from tests.integration.registries import start
from tests.unit.registry.faulty import Fault, FaultyRegistry

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs("root")

STAGES = """\
FROM scratch AS made
COPY a /a
FROM scratch
COPY --from=made /a /b
COPY c /c
COPY d /d
"""
BUSY = Fault(status=429, headers={"Retry-After": "7200"}, body=b"")
MISSING = Fault(status=404, body=b"{}")


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as running:
        yield running


other = registry


@pytest.fixture
def cluster(
    registry: FaultyRegistry, other: FaultyRegistry, tmp_path: Path
) -> Iterator[Cluster]:
    hosts = (registry.host, other.host)
    known = "".join(f'[registry."{host}"]\nhttp = true\n' for host in hosts)
    with start(tmp_path, known, workers=1) as running:
        yield running


@pytest.fixture
def cached(cluster: Cluster, registry: FaultyRegistry, context: ContextMaker) -> Path:
    """A context whose build is in the cache ``app:cache``, and nowhere else."""
    root = context(STAGES, a="a", c="c", d="d")
    to = f"type=registry,ref={registry.host}/app:cache,mode=max"
    cluster.build(root, "--cache-to", to)
    assert run("prune", "--all", "--manager", cluster.manager).returncode == 0
    registry.requests.clear()
    return root


def fail_layers(registry: FaultyRegistry, fault: Fault) -> None:
    """Have a fault in answer to all that is asked of the blobs that are there."""
    for digest in registry.blobs:
        registry.faults[f"HEAD app/blobs/{digest}"] = [fault] * 50


def test_a_cache_that_cannot_be_had_is_left_alone_after_the_first_step(
    cluster: Cluster, registry: FaultyRegistry, cached: Path
) -> None:
    fail_layers(registry, BUSY)
    built = cluster.build(cached, "--cache-from", f"{registry.host}/app:cache")
    assert built.stderr.count("is not used any more: ") == 1
    assert len(registry.asked("app/blobs/", method="HEAD")) <= 3  # layers of one step


@pytest.mark.parametrize("fault", [BUSY, MISSING], ids=["busy", "missing"])
def test_a_cache_that_fails_as_it_is_carried_on_fails_no_build(
    cluster: Cluster,
    registry: FaultyRegistry,
    other: FaultyRegistry,
    cached: Path,
    fault: Fault,
) -> None:
    name = f"{registry.host}/app:cache"
    cluster.build(cached, "--cache-from", name)
    fail_layers(registry, fault)
    to = f"type=registry,ref={other.host}/app:cache,mode=max"
    built = cluster.build(cached, "--cache-from", name, "--cache-to", to)
    assert "has only what was built: " in built.stderr
    assert "cache" in other.manifests
