"""A C program that Debian's compiler builds on one worker and that runs on another."""

import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.processes import BuildRun, Cluster
from filesync.disk.scanning.scan import scan
from filesync.manifest import MemoryNodes

CALCULATOR = Path(__file__).parent / "calculator"
ON_TWO = ("--place", "build=name=w1", "--place", "alone=name=w2", "--place", "final=name=w2")
REACH_S = 30.0

pytestmark = [
    pytest.mark.needs("root", "crun", "debootstrap", "umoci", "skopeo"),
    pytest.mark.timeout(900),
]


# --- a Debian with a compiler, from where this machine's own packages come ------------------


@dataclass(frozen=True)
class Source:
    """A package source of this machine.

    Attributes:
        text: what its administrator wrote: a line, or a stanza.
    """

    uri: str
    suite: str
    text: str


def find_source() -> Source:
    """Return the first of apt's sources that has a whole Debian; skip the test if none has."""
    query = ("--no-release-info", "--format", "$(SITE) $(RELEASE) $(SOURCESENTRY)")
    listed = output_of(
        "apt-get", "indextargets", *query, "Created-By: Packages", "Component: main"
    )
    for line in listed.splitlines():
        uri, suite, entry = line.split(maxsplit=2)
        if Path("/usr/share/debootstrap/scripts", suite).exists():
            return Source(uri, suite, text_of(entry))
    pytest.skip("apt has no source whose suite debootstrap knows: add Debian's to sources.list")


def text_of(entry: str) -> str:
    """Return the line, or in a ``.sources`` file the stanza, that ``FILE:NUMBER`` names."""
    name, _, number = entry.rpartition(":")
    text = Path(name).read_text()
    if name.endswith(".sources"):
        return re.split(r"\n\s*\n", text.strip())[int(number) - 1]
    return text.splitlines()[int(number) - 1]


def trust_in(source: Source) -> list[str]:
    """Return the arguments for debootstrap to check signatures by as apt checks them."""
    if re.search(r"\btrusted\s*[=:]\s*yes", source.text, re.IGNORECASE):
        return ["--no-check-gpg"]
    signed_by = re.search(r"\bsigned-by\s*[=:]\s*(/[^\s,\]]+)", source.text, re.IGNORECASE)
    return [f"--keyring={signed_by[1]}"] if signed_by else []


def find_proxies() -> dict[str, str]:
    """Return the proxies to use by scheme: apt's, and for a scheme without one the user's."""
    found = urllib.request.getproxies()
    for scheme in ("http", "https"):
        said = output_of("apt-config", "dump", f"Acquire::{scheme}::Proxy")
        if (match := re.search(r'::Proxy "(.+)";', said)) and match[1] != "DIRECT":
            found[scheme] = match[1]
    return found


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def make_debian(root: Path) -> None:
    """Install a minimal Debian with GCC; skip the test where its mirror cannot be reached."""
    source, proxies = find_source(), find_proxies()
    index = f"{source.uri}/dists/{source.suite}/InRelease"
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
        opener.open(index, timeout=REACH_S).close()
    except OSError as exc:
        pytest.skip(f"apt's mirror cannot be reached, so there is no Debian to build in: {exc}")
    options = ["--variant=minbase", "--include=gcc,libc6-dev", *trust_in(source)]
    done = subprocess.run(
        ["debootstrap", *options, source.suite, str(root), source.uri],
        env={**os.environ, **{f"{scheme}_proxy": value for scheme, value in proxies.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"debootstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    for name in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / name)


def write_layout(root: Path, layout: Path) -> None:
    """Write an OCI layout with one image, whose only layer is the tree at ``root``."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    plain = layout / "plain.tar"
    with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(root, arcname=".")
    with plain.open("rb") as source, gzip.open(layout / "packed", "wb", 1) as packed:
        shutil.copyfileobj(source, packed, 1 << 20)
    layer = add_blob(blobs, layout / "packed", "application/vnd.oci.image.layer.v1.tar+gzip")
    diff_id = f"sha256:{sha256_of(plain)}"
    plain.unlink()

    def add_json(value: object, media_type: str) -> dict[str, object]:
        (layout / "json").write_text(json.dumps(value))
        return add_blob(blobs, layout / "json", media_type)

    machine = output_of("dpkg", "--print-architecture").strip()
    config = {
        "architecture": machine,
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    described = add_json(config, "application/vnd.oci.image.config.v1+json")
    manifest = {"schemaVersion": 2, "config": described, "layers": [layer]}
    top = add_json(manifest, "application/vnd.oci.image.manifest.v1+json")
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def add_blob(blobs: Path, path: Path, media_type: str) -> dict[str, object]:
    """Move a file to where its digest says; return its descriptor."""
    digest, size = sha256_of(path), path.stat().st_size
    path.rename(blobs / digest)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image layout of a Debian with GCC, as a value of --build-context.

    One for all processes that share the tests among them: it takes a minute.
    """
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    layout = directory / "debian"
    with (directory / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not layout.exists():
            made = tmp_path_factory.mktemp("debian")
            make_debian(made / "root")
            write_layout(made / "root", made / "layout")
            shutil.rmtree(made / "root")
            (made / "layout").rename(layout)
    return f"debian=oci-layout://{layout}"


# --- the program ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """One build of the calculator."""

    run: BuildRun
    tree: Path
    layout: Path


def build(cluster: Cluster, contexts: tuple[str, str], out: Path, *arguments: str) -> Built:
    named = (word for value in contexts for word in ("--build-context", value))
    outputs = (
        "-o",
        f"type=local,dest={out}/tree",
        "-o",
        f"type=oci,tar=false,dest={out}/image",
    )
    run = cluster.build(CALCULATOR, *named, "-t", "calc:1", *outputs, *arguments)
    return Built(run, out / "tree", out / "image")


@pytest.fixture(scope="module")
def on_two(base: str, debian: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The calculator, compiled on w1 and run on w2."""
    directory = tmp_path_factory.mktemp("two")
    with Cluster(directory / "cluster") as cluster:
        yield build(cluster, (base, debian), directory, *ON_TWO)


def content_of(root: Path) -> bytes:
    return scan(root, MemoryNodes()).content


def test_a_program_compiled_on_one_worker_runs_on_another(on_two: Built) -> None:
    assert on_two.run.step("[build 4/4] RUN")["worker"] == "w1"
    assert on_two.run.step('RUN ["/calc"')["worker"] == "w2"
    assert on_two.run.step("RUN calc")["worker"] == "w2"
    assert (on_two.tree / "answers/alone").read_text() == "2\n120\n512\n-0.785398163397\n"
    assert (on_two.tree / "answers/linked").read_text() == "42\n10\n-1\n"


@pytest.mark.parametrize("name", ["calc-alone", "calc"])
def test_of_the_compilers_root_only_the_binary_travels(on_two: Built, name: str) -> None:
    step = on_two.run.step(f"COPY --from=build /out/{name} ")
    assert step["worker"] == "w2"
    (use,) = [use for use in step["inputs"] if use["mode"] == "paths"]
    assert use["from"] == ["w1"]
    assert use["files_moved"] == 1
    assert 1000 < use["bytes_moved"] < 3_000_000
    assert use["bytes_if_layers"] > 50_000_000


def test_skopeo_and_umoci_accept_the_image_with_the_same_files(
    on_two: Built, tmp_path: Path
) -> None:
    config = json.loads(output_of("skopeo", "inspect", "--config", f"oci:{on_two.layout}:1"))
    assert config["config"]["Cmd"] == ["calc", "1 + 1"]
    inspected = json.loads(output_of("skopeo", "inspect", f"oci:{on_two.layout}:1"))
    assert inspected["Labels"] == {"maker": "calculator"}
    copied = tmp_path / "copied"
    output_of("skopeo", "copy", f"oci:{on_two.layout}:1", f"oci:{copied}:1")
    for layout in (on_two.layout, copied):
        bundle = tmp_path / f"bundle-{layout.name}"
        output_of("umoci", "unpack", "--image", f"{layout}:1", str(bundle))
        assert content_of(bundle / "rootfs") == content_of(on_two.tree)


def test_one_worker_gives_the_same_files(
    on_two: Built, base: str, debian: str, tmp_path: Path
) -> None:
    with Cluster(tmp_path / "cluster", workers=1) as cluster:
        single = build(cluster, (base, debian), tmp_path)
    assert {step["worker"] for step in single.run.metadata["filesync"]["steps"]} <= {"w1", ""}
    assert content_of(single.tree) == content_of(on_two.tree)
