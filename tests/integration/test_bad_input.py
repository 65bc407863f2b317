"""What a user does wrong, or a machine: one sentence, a status, and nothing left behind."""

import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.processes import Cluster, run
from tests.mounting import tmpfs

ContextMaker = Callable[..., Path]
NOBODY = 65534
NOWHERE = "tcp://127.0.0.1:1"
COPY = "FROM scratch\nCOPY f /f\n"

pytestmark = pytest.mark.needs("root")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A manager and the worker w1, for what leaves nothing behind in them."""
    with Cluster(tmp_path_factory.mktemp("one") / "cluster", workers=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a cluster has left that ran and was stopped."""
    with Cluster(tmp_path_factory.mktemp("left") / "cluster", workers=1) as cluster:
        pass
    return cluster.root


def assert_clean(cluster: Cluster) -> None:
    for name in cluster.names:
        assert list((cluster.root / name / "work").iterdir()) == []
        scratch = cluster.root / name / "exec" / "scratch"
        assert not scratch.exists() or list(scratch.iterdir()) == []


def refused(*arguments: str, saying: str, status: int = 2) -> None:
    done = run(*arguments)
    assert done.returncode == status, done.stderr
    assert saying in done.stderr
    assert done.stderr.count("filesync: error: ") == 1
    assert "Traceback" not in done.stderr


def test_a_command_that_is_not_there_is_answered_with_the_nearest() -> None:
    done = run("buidl", ".")
    assert done.returncode == 2
    assert "No such command 'buidl'. Did you mean 'build'?" in done.stderr


@pytest.mark.parametrize(
    ("dockerfile", "arguments", "saying"),
    [
        ("FROM scratch\nCOPPY f /\n", (), "did you mean COPY?"),
        ("FROM scratch\nCOPY nof /\n", (), "Dockerfile:2: 'nof' is not in the context"),
        ("FROM scratch\nCOPY nof /\n", (), "\n   2 | COPY nof /\n"),
        ("FROM scratch\nCOPY nof/* /\n", (), "Dockerfile:2: 'nof' is not in the context"),
        ("FROM scratch\nCOPY f/* /\n", (), "Dockerfile:2: 'f/' is not in the context"),
        (f"{COPY}FROM scratch\nCOPY --from=0 /nof /\n", (), "'nof' is not there"),
        (
            f"{COPY}FROM scratch\nCOPY --from=0 \\\n  /nof /\n",
            (),
            "\n   4 | COPY --from=0 \\\n   5 |   /nof /\n",
        ),
        (COPY, ("-o", "type=foo,dest=x"), "the type is one of local, tar, oci"),
        (COPY, ("-o", "type=local,dest=/no/such/out"), "/no/such is not a directory"),
        (COPY, ("-o", "type=local,dest=/proc/out"), "cannot write /proc/out"),
        (COPY, ("-o", "type=tar,dest=/proc"), "/proc is a directory; name a file"),
        (COPY, ("-o", "type=local,dest=/etc/passwd"), "/etc/passwd is no directory"),
        (COPY, ("--place", "nope=gpu=true"), "there is no stage 'nope'"),
        (COPY, ("--build-context", "base=oci-layout:///etc"), "no OCI image layout there"),
    ],
)
def test_a_build_that_cannot_be_says_why(
    one: Cluster,
    context: ContextMaker,
    dockerfile: str,
    arguments: tuple[str, ...],
    saying: str,
) -> None:
    built = one.build(context(dockerfile, f="f"), *arguments, check=False)
    assert built.status in (1, 2)
    assert saying in built.stderr
    assert "Traceback" not in built.stderr
    assert_clean(one)


@pytest.mark.parametrize("option", ["--metadata-file", "--iidfile"])
def test_nothing_is_built_whose_facts_could_not_be_written(
    one: Cluster, context: ContextMaker, tmp_path: Path, option: str
) -> None:
    words = (option, "/no/such/file", "-o", f"type=oci,dest={tmp_path / 'out.tar'}")
    done = run("build", "--manager", one.manager, *words, str(context(COPY, f="f")))
    assert (done.returncode, done.stderr) == (
        2,
        "filesync: error: /no/such is not a directory\n",
    )
    assert not (tmp_path / "out.tar").exists()


IMPATIENT = """\
import filesync.command.cli, solver.client.link_zmq, sys
solver.client.link_zmq.ANSWER_S = 1.0
filesync.command.cli.main(sys.argv[1:])
"""


def test_no_manager_is_one_sentence(context: ContextMaker) -> None:
    words = ["build", "--manager", NOWHERE, str(context(COPY, f="f"))]
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"no manager answers at {NOWHERE}" in done.stderr
    assert done.stderr.count("filesync: error: ") == 1
    assert "Traceback" not in done.stderr


def test_of_a_manager_with_a_socket_of_its_own_it_is_said_how_that_is_started(
    context: ContextMaker,
) -> None:
    words = ["build", "--manager", "ipc:///nowhere/manager/socket", str(context(COPY, f="f"))]
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *words], capture_output=True, text=True, check=False
    )
    assert "start one with `filesync manager --state /nowhere/manager`" in done.stderr


def test_a_port_in_use_and_a_name_taken_are_refused(one: Cluster, tmp_path: Path) -> None:
    state = str(tmp_path / "other")
    refused(
        "manager", "--listen", one.manager, "--state", state, saying="Address already in use"
    )
    worker = ("worker", "--manager", one.manager, "--state", f"{state}-worker")
    refused(*worker, "--listen", one.manager, saying="Address already in use")
    refused(*worker, "--name", "w1", saying="give another --name")


def test_up_names_the_commands_that_other_machines_are_for() -> None:
    # It has neither --allow nor --allow-insecure.
    refused("up", "--listen", "tcp://0.0.0.0:0", saying="for others run `filesync manager --li")
    refused("up", "--listen", "127.0.0.1:7700", saying="is not an address")


def test_a_state_directory_that_is_another_s_is_refused(
    one: Cluster, left: Path, tmp_path: Path
) -> None:
    listen = ("--listen", "tcp://127.0.0.1:0")
    worker = ("worker", "--manager", one.manager, "--state")
    refused("manager", *listen, "--state", str(one.root / "manager"), saying="another process")
    refused(*worker, str(one.root / "w1"), saying="another process")
    refused(*worker, str(left / "manager"), saying="manager state", status=1)
    state = shutil.copytree(left / "w1", tmp_path / "w1")
    (state / "format").write_text("filesync worker state 99\n")
    refused(*worker, str(state), saying="worker state 99", status=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    refused(*worker, str(tmp_path / "full"), saying="is not empty", status=1)


@pytest.mark.parametrize("damage", ["version", "rot"])
@pytest.mark.parametrize(
    "name",
    [
        "manager/nodes.db",
        "manager/records.db",
        "w1/nodes.db",
        "w1/refs.db",
        "w1/snapshots/snapshots.db",
    ],
)
def test_a_database_of_another_version_or_none_is_refused(
    left: Path, tmp_path: Path, name: str, damage: str
) -> None:
    path = shutil.copytree(left, tmp_path / "left") / name
    if damage == "version":
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 99")
        db.close()
    else:
        for log in path.parent.glob(f"{path.name}-*"):
            log.unlink()
        path.write_bytes(b"rotten" * 1000)
    kind = "manager" if name.startswith("manager") else "worker"
    more = ("--manager", NOWHERE) if kind == "worker" else ("--listen", "tcp://127.0.0.1:0")
    state = tmp_path / "left" / name.partition("/")[0]
    refused(kind, "--state", str(state), *more, saying=str(path), status=1)


# --- what the machine or the user lacks -----------------------------------------------------------

AS_NOBODY = f"""\
import encodings.ascii, encodings.idna, importlib.metadata, os, sys
import filesync.command.cli, filesync.transfer.receive.pull_zmq, filesync.transfer.send.send_zmq
import solver.commands.build, solver.commands.manager, worker.commands
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
filesync.command.cli.main(sys.argv[1:])
"""


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A directory that is nobody's, where nobody can reach it: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def test_a_worker_that_is_not_root_copies_its_own_and_says_what_it_cannot(
    clusters: Callable[..., Cluster], context: ContextMaker, base: str, nobodys: Path
) -> None:
    cluster = clusters("none", workers=0)
    command = [
        "worker",
        "--manager",
        cluster.manager,
        "--state",
        str(nobodys / "w"),
        "--name",
        "w",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", AS_NOBODY, *command], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("tcp://")
            own = f"FROM scratch\nCOPY --chown={NOBODY}:{NOBODY} f /f\n"
            out = nobodys / "out"
            cluster.build(context(own, f="f"), "-o", f"type=local,dest={out}")
            assert (out / "f").read_text() == "f"
            built = cluster.build(context(COPY, f="f"), check=False)
            assert f"or use --chown={NOBODY}:{NOBODY}" in built.stderr
            root = context("FROM base\nRUN true\n", f="f")
            built = cluster.build(root, "--build-context", base, check=False)
            assert "RUN needs root: start the worker as root" in built.stderr
        finally:
            process.terminate()


@pytest.mark.parametrize(("copied", "status"), [("src/f", 0), ("s*", 0), (".", 1)])
def test_what_no_step_reads_may_be_unreadable(
    cluster: Cluster, nobodys: Path, copied: str, status: int
) -> None:
    root = nobodys / "context"
    (root / "src").mkdir(parents=True)
    (root / "src" / "f").write_text("f")
    (root / "roots").write_text("a secret, or a terabyte")
    (root / "roots").chmod(0)
    (root / "Dockerfile").write_text(f"FROM scratch\nCOPY {copied} /\n")
    command = ["build", "--manager", cluster.manager, str(root)]
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *command],
        env={**os.environ, "XDG_CACHE_HOME": str(nobodys / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    is_told = "'roots' cannot be read: Permission denied" in done.stderr
    assert is_told == bool(status)


def test_a_state_directory_without_permission_is_one_sentence(nobodys: Path) -> None:
    (nobodys / "roots").mkdir(mode=0o700)
    state = str(nobodys / "roots" / "w")
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "worker", "--manager", NOWHERE, "--state", state],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_runtime_run_says_what_to_install(
    context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context("FROM base\nRUN true\n")
    env = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run("build", "--build-context", base, str(root), env=env)
    assert done.returncode == 1
    assert "install" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk", "size=3m") as disk:
        yield disk


@pytest.mark.needs("mount")
def test_a_full_disk_is_one_sentence_and_what_came_is_removed(
    context: ContextMaker, disk: Path
) -> None:
    env = {"XDG_CACHE_HOME": str(disk)}
    root = context("FROM scratch\nCOPY big /\n", big=os.urandom(8_000_000))
    done = run("build", str(root), env=env)
    assert done.returncode == 1
    assert "is full: free space" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path for path in disk.rglob("*") if path.name == "big"] == []
    (root / "big").write_bytes(b"small now")
    assert run("build", str(root), env=env).returncode == 0


@pytest.mark.needs("mount")
def test_a_worker_outlives_a_full_disk(
    context: ContextMaker, disk: Path, tmp_path: Path
) -> None:
    root = context("FROM scratch\nCOPY . /\n", **{f"d{n}__f": str(n) for n in range(100)})
    state = ("--state", str(disk), "--gc-min-free", "0")
    with Cluster(tmp_path / "cluster", workers=1, arguments={"w1": state}) as cluster:
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        built = cluster.build(root, check=False)
        assert built.status == 1
        assert "free space" in built.stderr
        assert "Traceback" not in built.stderr
        filler.unlink()
        cluster.build(root)
        assert cluster.processes["w1"].poll() is None


# --- hostile images ---------------------------------------------------------------------------


def image(layout: Path, name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    """Write an image whose one layer has one member, called ``name``."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        tar.addfile(member)
    layer = packed.getvalue()
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{media_type}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    one = put(layer, "layer.v1.tar")
    rootfs = {"type": "layers", "diff_ids": [one["digest"]]}
    config = {"architecture": os.uname().machine, "os": "linux", "rootfs": rootfs}
    configured = put(json.dumps(config).encode(), "config.v1+json")
    manifest = {"schemaVersion": 2, "config": configured, "layers": [one]}
    index = {
        "schemaVersion": 2,
        "manifests": [put(json.dumps(manifest).encode(), "manifest.v1+json")],
    }
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "layer").write_text(str(one["digest"]).removeprefix("sha256:"))


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../../../../escaped", tarfile.REGTYPE, ""),
        ("a/../../../../escaped", tarfile.REGTYPE, ""),
        ("hard", tarfile.LNKTYPE, "../../../../etc/passwd"),
    ],
)
def test_a_layer_that_leads_out_of_its_root_is_refused(
    one: Cluster, context: ContextMaker, tmp_path: Path, name: str, kind: bytes, link: str
) -> None:
    image(tmp_path / "image", name, kind=kind, link=link)
    base = f"base=oci-layout://{tmp_path / 'image'}"
    built = one.build(context("FROM base\n"), "--build-context", base, check=False)
    assert "Traceback" not in built.stderr
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/escaped").exists()
    assert built.status == 1, built.stderr
    assert_clean(one)


def test_an_absolute_name_in_a_layer_stays_in_the_root(
    one: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    image(tmp_path / "image", "/filesync-absolute")
    base = f"base=oci-layout://{tmp_path / 'image'}"
    one.build(context("FROM base\n"), "--build-context", base, check=False)
    assert not Path("/filesync-absolute").exists()
    assert_clean(one)


def test_a_layer_that_is_not_its_digest_is_refused(
    one: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    image(tmp_path / "image", "file")
    layer = (tmp_path / "image/layer").read_text()
    (tmp_path / "image/blobs/sha256" / layer).write_bytes(b"something else")
    base = f"base=oci-layout://{tmp_path / 'image'}"
    built = one.build(context("FROM base\n"), "--build-context", base, check=False)
    assert built.status == 1
    assert layer[:12] in built.stderr
    assert "Traceback" not in built.stderr
    assert_clean(one)


def test_an_embedded_cluster_that_cannot_start_says_why_and_leaves_nobody(
    tmp_path: Path,
) -> None:
    (tmp_path / "cache/filesync/cluster").mkdir(parents=True)
    (tmp_path / "cache/filesync/cluster/manager").write_text("no directory")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    done = run(
        "build",
        "--workers",
        "2",
        str(tmp_path),
        env={"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 2
    first, last = done.stderr.splitlines()
    assert str(tmp_path / "cache/filesync/cluster/manager") in first
    assert (
        last == "filesync: error: the manager of the embedded cluster did not start; see above"
    )


def test_a_worker_without_its_manager_says_so_once_and_ends_when_asked(tmp_path: Path) -> None:
    command = ["worker", "--manager", NOWHERE, "--state", str(tmp_path / "w"), "--name", "w"]
    with subprocess.Popen(
        [sys.executable, "-m", "filesync", *command], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        while "no manager at" not in first:
            assert first, "it never said that there is no manager"
            first = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert "no manager at" not in process.stderr.read()
        assert process.wait() == 0
