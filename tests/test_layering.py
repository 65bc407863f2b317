"""The package graph is a rule, so it is a test. docs/architecture.md shows the same table."""

import ast
from collections.abc import Container, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "filesync": (),
    "worker": ("filesync",),
    "solver": ("filesync", "worker.wire"),  # what a worker can be told, and nothing else of it
    "bench": ("filesync", "worker", "solver"),
}
_TOP = ("images", "inputs", "run", "service", "link_zmq", "process")
ROOMS: dict[str, tuple[str, ...]] = {
    "filesync.process": ("command", "disk", "keys", "manifest", "transfer", "trees", "sync"),
    "filesync.manifest": ("command", "disk", "keys", "transfer", "trees", "sync"),
    "filesync.trees": ("command", "disk", "keys", "process", "transfer", "sync"),
    "filesync.disk": ("command", "keys", "transfer", "sync"),
    "filesync.disk.scanning": ("disk.updating",),
    "filesync.keys": ("disk", "manifest", "transfer", "trees", "sync"),
    "filesync.transfer": ("command", "sync"),
    "filesync.transfer.connection": (
        "disk",
        "transfer.coding",
        "transfer.receive",
        "transfer.send",
    ),
    "filesync.transfer.coding": (
        "disk",
        "transfer.connection",
        "transfer.receive",
        "transfer.send",
    ),
    "filesync.transfer.receive": ("transfer.send", "transfer.plane_zmq"),
    "filesync.transfer.send": ("transfer.receive", "transfer.plane_zmq"),
    "worker.wire": (
        "blobs",
        "layers",
        "store",
        "exec",
        "files",
        "moving",
        "garbage",
        "registry",
    ),
    "worker.snapshots": ("blobs", "layers", "store", "exec", "files", "moving", "registry"),
    "worker.blobs": ("layers", "snapshots", "store", "exec", "files", "moving", "registry"),
    "worker.exec": ("blobs", "layers", "snapshots", "store", "files", "moving", "registry"),
    "worker.files": ("blobs", "layers", "snapshots", "store", "moving", "registry"),
    "worker.layers": ("snapshots", "store", "exec", "files", "moving", "registry", "parts"),
    "worker.registry": (
        "layers",
        "snapshots",
        "store",
        "exec",
        "files",
        "moving",
        "parts",
        "urls",
        "git",
    ),
    "worker.store": ("exec", "files", "garbage", "moving", "registry", "parts"),
    "worker.parts": ("exec", "files", "garbage", "moving", "urls", *_TOP),
    "worker.urls": (
        "exec",
        "files",
        "garbage",
        "layers",
        "moving",
        "parts",
        "snapshots",
        "store",
        *_TOP,
    ),
    "worker.git": (
        "files",
        "garbage",
        "layers",
        "moving",
        "parts",
        "snapshots",
        "store",
        *_TOP,
    ),
    "worker.moving": ("exec", "files", "garbage", "registry", "parts", *_TOP),
    "worker.garbage": ("files", "moving", "registry", "parts", *_TOP),
    "solver.caches": ("client", "commands", "dockerfile", "manager", "wire"),
    "solver.dockerfile": ("caches", "client", "commands", "manager", "wire"),
    "solver.client": ("commands", "manager", "place"),
    "solver.manager": ("client", "commands", "dockerfile"),
    "solver.manager.moving": (
        "manager.build",
        "manager.clients",
        "manager.outputs",
        "manager.caches",
    ),
    "solver.manager.caches": (
        "manager.build",
        "manager.clients",
        "manager.outputs",
        "manager.results",
    ),
    "solver.manager.results": (
        "manager.build",
        "manager.clients",
        "manager.outputs",
        "manager.caches",
    ),
}
"""Rooms, and what in their own package each may not import."""
IO = {"asyncio", "zmq", "socket", "os", "time", "threading", "subprocess", "random"}
PURE = [
    "filesync/command/quantities.py",
    "filesync/digest.py",
    "filesync/manifest/growth.py",
    "filesync/manifest/links.py",
    "filesync/manifest/node.py",
    "filesync/manifest/pack.py",
    "filesync/manifest/patch.py",
    "filesync/manifest/tree.py",
    "filesync/sync/filter.py",
    "filesync/sync/rate.py",
    "filesync/sync/remote/wire.py",
    "filesync/sync/shadow.py",
    "filesync/transfer/coding/chunking.py",
    "filesync/transfer/coding/codec.py",
    "filesync/transfer/coding/delta.py",
    "filesync/transfer/coding/matching.py",
    "filesync/transfer/coding/recipe.py",
    "filesync/transfer/connection/strangers.py",
    "filesync/transfer/flow.py",
    "filesync/transfer/receive/fetch.py",
    "filesync/transfer/receive/gaps.py",
    "filesync/transfer/receive/policy.py",
    "filesync/transfer/receive/receiver.py",
    "filesync/transfer/receive/units.py",
    "filesync/transfer/send/sender.py",
    "filesync/transfer/wire.py",
    "filesync/trees/diff.py",
    "filesync/trees/find.py",
    "filesync/trees/glob.py",
    "filesync/trees/overlay.py",
    "filesync/trees/retime.py",
    "filesync/trees/select.py",
    "filesync/trees/united.py",
    "solver/caches/config.py",
    "solver/caches/graph.py",
    "solver/caches/merge.py",
    "solver/caches/wire.py",
    "solver/client/outputlines.py",
    "solver/client/outputs/epoch.py",
    "solver/client/outputs/report.py",
    "solver/client/pruning.py",
    "solver/client/unknown.py",
    "solver/client/wording.py",
    "solver/dockerfile/",
    "solver/events.py",
    "solver/graph.py",
    "solver/keys.py",
    "solver/manager/leases.py",
    "solver/manager/results/lastcopies.py",
    "solver/place.py",
    "solver/urls.py",
    "solver/wire.py",
    "worker/exec/check.py",
    "worker/exec/output.py",
    "worker/exec/policy.py",
    "worker/exec/spec.py",
    "worker/garbage/choice.py",
    "worker/git/address.py",
    "worker/git/listing.py",
    "worker/layers/changes.py",
    "worker/layers/hardlinks.py",
    "worker/layers/member.py",
    "worker/layers/skeleton.py",
    "worker/layers/way.py",
    "worker/registry/challenge.py",
    "worker/registry/manifest.py",
    "worker/registry/ranges.py",
    "worker/registry/retry.py",
    "worker/urls/download.py",
    "worker/wire/",
]
"""Modules, and folders of them, that decide and do not touch the world."""

MAX_LINES = 500
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc"}


def modules(place: str) -> list[Path]:
    """Return the module ``place``, or those in the folder ``place/``."""
    path = ROOT / place
    found = sorted(path.rglob("*.py")) if place.endswith("/") else [path]
    assert found, f"{place} holds no module"
    return found


def module(name: str) -> Path:
    return ROOT / f"{name.replace('.', '/')}.py"


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, as deep as its text says."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def breaches(path: Path, package: str) -> list[str]:
    """Return what a module of ``package`` imports of ours and may not."""
    allowed = (package, *MAY_IMPORT[package])
    return [
        name
        for name in imports(path)
        if name.split(".")[0] in MAY_IMPORT and not any(is_below(name, a) for a in allowed)
    ]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_the_layers_below_it(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): breaches(path, package) for path in modules(f"{package}/")
    }
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_the_floors_below_it(room: str) -> None:
    package = room.split(".")[0]
    upper = [f"{package}.{name}" for name in ROOMS[room]]
    assert all((ROOT / one.replace(".", "/")).exists() or module(one).exists() for one in upper)
    found = {
        str(path.relative_to(ROOT)): name
        for path in modules(room.replace(".", "/") + "/")
        for name in imports(path)
        if any(is_below(name, one) for one in upper)
    }
    assert found == {}


def test_the_table_sees_a_breach(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import worker\nfrom worker import wire, disk\nimport worker.wire.ops\n")
    assert breaches(module, "solver") == ["worker", "worker.disk"]
    assert breaches(module, "filesync") == [
        "worker",
        "worker.wire",
        "worker.disk",
        "worker.wire.ops",
    ]
    assert breaches(module, "bench") == []


@pytest.mark.parametrize("place", PURE)
def test_pure_module_imports_no_io(place: str) -> None:
    for path in modules(place):
        touched = {name.split(".")[0] for name in imports(path)} & IO
        assert not touched, f"{path.relative_to(ROOT)} imports {sorted(touched)}"


def imported_modules(path: Path, names: Container[str]) -> set[str]:
    """Return which modules of ``names`` a module imports, whole or something of."""
    found = set()
    for name in imports(path):
        one = name if name in names else name.rpartition(".")[0]
        if one in names:
            found.add(one)
    return found


def test_no_modules_import_each_other() -> None:
    """Not even inside of functions, or for their types alone."""
    paths = [path for package in MAY_IMPORT for path in modules(f"{package}/")]
    by_name = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }
    graph = {name: imported_modules(path, by_name) - {name} for name, path in by_name.items()}
    assert graph["filesync.sync.run"]
    TopologicalSorter(graph).prepare()


def test_the_manager_has_no_data_plane() -> None:
    named = {name for path in modules("solver/manager/") for name in imports(path)}
    assert not {name for name in named if is_below(name, "filesync.transfer.plane_zmq")}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_modules_are_short(package: str) -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_bytes().splitlines())
        for path in modules(f"{package}/")
    }
    assert {path: count for path, count in lines.items() if count >= MAX_LINES} == {}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_modules_are_named_by_what_they_hold(package: str) -> None:
    names = {
        part
        for path in modules(f"{package}/")
        for part in path.relative_to(ROOT).with_suffix("").parts
    }
    assert not names & NAMELESS


def test_what_decoders_raise_is_said_once() -> None:
    """One of them was forgotten now and then: a message of eight bytes ended a manager."""
    paths = [
        p for name in ("filesync", "worker", "solver") for p in (ROOT / name).rglob("*.py")
    ]
    found = [path for path in paths if "msgspec.MsgspecError" in path.read_text()]
    assert found == [ROOT / "filesync/decoding.py"]
