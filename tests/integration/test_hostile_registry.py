"""Images that nobody should serve, through a whole cluster: one sentence, and nothing half-done."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.processes import BuildRun, Cluster, run
from tests.integration.registries import BIG, start
from tests.unit.registry.faulty import LAYER_TYPE, Fault, FaultyRegistry, sha256

ContextMaker = Callable[..., Path]
Member = tuple[str, bytes, str]
"""Name, type as tar has it, and what it links to."""

pytestmark = pytest.mark.needs("root")

FILE, HARD, SYMBOLIC = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
BASIC = {"WWW-Authenticate": 'Basic realm="r"'}
CONFIG = {"os": "linux", "architecture": "amd64"}


@pytest.fixture(scope="module")
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(
    registry: FaultyRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    known = f'[registry."{registry.host}"]\nhttp = true\n'
    with start(tmp_path_factory.mktemp("hostile"), known, workers=1) as running:
        yield running


@pytest.fixture(autouse=True)
def _empty(cluster: Cluster) -> None:
    """Begin with a worker that holds nothing."""
    assert run("prune", "--all", "--manager", cluster.manager).returncode == 0


def layer(*members: Member, data: bytes = b"data") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = len(data) if kind == FILE else 0
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def serve(
    registry: FaultyRegistry,
    *layers: bytes,
    diff_ids: list[str] | None = None,
    layer_type: str = LAYER_TYPE,
) -> None:
    told = [sha256(one) for one in layers] if diff_ids is None else diff_ids
    config = CONFIG | {"rootfs": {"type": "layers", "diff_ids": told}}
    data = json.dumps(config).encode()
    registry.add_image("1", *layers, config=data, layer_type=layer_type)


def build(cluster: Cluster, registry: FaultyRegistry, context: ContextMaker) -> BuildRun:
    """Build on the image and push the result."""
    root = context(f"FROM {registry.host}/app:1\nCOPY Dockerfile /added\n")
    push = ("-t", f"{registry.host}/new:2", "--push")
    return cluster.build(root, *push, check=False)


def assert_refused(
    cluster: Cluster, registry: FaultyRegistry, built: BuildRun, says: str
) -> None:
    """It failed with one sentence; neither the registry nor the worker has a part of it."""
    assert built.status in (1, 2), "of a step, or of the FROM line itself"
    assert says in built.stderr
    assert "Traceback" not in built.stderr
    assert "2" not in registry.manifests
    log = (cluster.root / "w1.log").read_text()
    assert "Traceback" not in log
    for left in ("snapshots/trees", "blobs/ingest", "work"):
        names = {path.name for path in (cluster.root / "w1" / left).iterdir()}
        assert names <= {"0"}, f"{left} holds {names}"


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("../../escaped", FILE, "")], "escaped"),
        ([("a/../../../escaped", FILE, "")], "escaped"),
        ([("hard", HARD, "../../../etc/passwd")], "leads out"),
        ([("early", HARD, "late"), ("late", FILE, "")], "late"),
        ([("loop", SYMBOLIC, "loop"), ("loop/escaped", FILE, "")], "loop"),
        ([("f", FILE, ""), ("f/below", FILE, "")], "f"),
        ([(".wh...", FILE, "")], ".wh..."),
    ],
    ids=["up", "up later", "hard link up", "hard link to later", "loop", "below a file", "wh"],
)
def test_a_layer_that_cannot_be_is_refused_and_nothing_is_outside_the_root(
    cluster: Cluster,
    registry: FaultyRegistry,
    context: ContextMaker,
    members: list[Member],
    says: str,
) -> None:
    serve(registry, layer(*members))
    built = build(cluster, registry, context)
    assert_refused(cluster, registry, built, says)
    assert not list(cluster.root.rglob("escaped"))
    assert not Path("/escaped").exists()


def test_links_and_whiteouts_that_lead_nowhere_stay_inside_the_root(
    cluster: Cluster, registry: FaultyRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    members = [
        ("out", SYMBOLIC, str(outside)),
        ("out/planted", FILE, ""),
        ("out/.wh.secret", FILE, ""),
        (".wh.never-was", FILE, ""),
        ("/absolute", FILE, ""),
    ]
    serve(registry, layer(*members))
    root = context(f"FROM {registry.host}/app:1\n")
    cluster.build(root, "-o", f"type=local,dest={tmp_path / 'out'}")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert not Path("/absolute").exists()
    assert (tmp_path / "out/absolute").read_text() == "data"
    assert (tmp_path / "out" / str(outside).lstrip("/") / "planted").read_text() == "data"


def test_a_layer_of_another_diff_id_than_its_configuration_says_is_refused(
    cluster: Cluster, registry: FaultyRegistry, context: ContextMaker
) -> None:
    serve(registry, layer(("other", FILE, "")), diff_ids=["sha256:" + "0" * 64])
    built = build(cluster, registry, context)
    assert_refused(cluster, registry, built, "does not have the diffID")


@pytest.mark.parametrize("suffix", ["+gzip", "+zstd"])
def test_a_layer_that_is_not_compressed_as_its_type_says_is_told_by_its_bytes(
    cluster: Cluster, registry: FaultyRegistry, context: ContextMaker, suffix: str
) -> None:
    serve(registry, layer(("typed" + suffix, FILE, "")), layer_type=LAYER_TYPE + suffix)
    built = build(cluster, registry, context)
    assert built.status == 0, built.stderr
    del registry.manifests["2"]


def test_a_layer_of_a_type_that_nobody_knows_is_refused(
    cluster: Cluster, registry: FaultyRegistry, context: ContextMaker
) -> None:
    serve(registry, layer(("typed", FILE, "")), layer_type="application/x-tar")
    built = build(cluster, registry, context)
    assert_refused(cluster, registry, built, "a layer of the unknown type application/x-tar")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(status=401, headers=BASIC, body=b"{}"), "run `docker login"),
        (Fault(status=403, body=b"{}"), "access denied"),
        (Fault(status=404, body=b"{}"), "not found"),
        (Fault(status=429, headers={"Retry-After": "7200"}, body=b""), "too many requests"),
        (Fault(status=418, body=b"{}"), "status 418"),
    ],
    ids=["401", "403", "404", "429", "418"],
)
def test_a_registry_that_does_not_give_a_layer_fails_the_build_in_its_words(
    cluster: Cluster, registry: FaultyRegistry, context: ContextMaker, fault: Fault, says: str
) -> None:
    one = layer((f"for {fault.status}", FILE, ""))
    serve(registry, one)
    registry.faults[f"app/blobs/{sha256(one)}"] = [fault] * 2
    built = build(cluster, registry, context)
    assert_refused(cluster, registry, built, says)


@pytest.mark.parametrize(
    "fault",
    [Fault(status=500, body=b""), Fault(cut=1_000_000), Fault(status=429, body=b"")],
    ids=["500", "cut", "429"],
)
def test_what_passes_is_tried_again_and_the_build_goes_on(
    cluster: Cluster, registry: FaultyRegistry, context: ContextMaker, fault: Fault
) -> None:
    one = layer((f"for {fault.status} {fault.cut}", FILE, ""), data=BIG)
    serve(registry, one)
    registry.faults[f"app/blobs/{sha256(one)}"] = [fault]
    built = build(cluster, registry, context)
    assert built.status == 0, built.stderr
    assert "2" in registry.manifests
    del registry.manifests["2"]
