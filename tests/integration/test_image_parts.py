"""COPY --from and mounts of images in registries: no more of them comes than is read."""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.processes import Cluster
from tests.integration.registries import (
    BIG,
    RealRegistry,
    content_of,
    layer_bytes,
    plain,
    pulled_bytes,
    push,
    skopeo,
    start,
    umoci,
    unpacked,
)
from worker.layers.estargz import toc_offset

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs(
    "root", "docker-registry", "htpasswd", "openssl", "skopeo", "umoci"
)

TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"


def blobs_of(cluster: Cluster) -> list[int]:
    """Return the sizes of all blobs in the stores of all workers."""
    return [
        path.stat().st_size for path in cluster.root.glob("**/blobs/sha256/*") if path.is_file()
    ]


def copying(registry: RealRegistry, name: str, *paths: str) -> str:
    """Return a Dockerfile that copies ``paths`` out of an image, each into ``/out/``."""
    lines = [f"COPY --from={registry.host}/{name} {path} /out/" for path in paths]
    return "\n".join(["FROM scratch", *lines, ""])


def with_top(image: Path, tmp_path: Path) -> Path:
    """Lay one more layer on ``image``, of ``/top/third`` and a link to what is below."""
    (tmp_path / "upper/top").mkdir(parents=True)
    (tmp_path / "upper/top/third").write_text("new")
    (tmp_path / "upper/top/link").symlink_to("../etc/link")
    umoci(tmp_path, "insert", "--image", f"{image}:1", str(tmp_path / "upper"), "/")
    return image


def test_a_file_of_an_image_comes_alone_and_no_layer_is_stored(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    push(image, registry, "app:1")
    out = tmp_path / "out"
    root = context(copying(registry, "app:1", "/etc/name", "/data"))
    built = registry_cluster.build(root, "-o", f"type=local,dest={out}")
    assert (out / "out/name").read_text() == "first\n"
    assert (out / "out/big").read_bytes() == BIG
    # The manifest, the configuration, and the layers that the two COPY made.
    assert sorted(blobs_of(registry_cluster))[-1] < 20_000
    step = built.step(f"FROM {registry.host}/app:1")
    assert (
        0 <= layer_bytes(image) - pulled_bytes(built) < 2_000
    )  # the configuration came before
    assert [use["mode"] for use in step["inputs"]] == ["registry"]


def test_the_top_layers_suffice_where_all_is_in_them(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    push(with_top(image, tmp_path), registry, "app:1")
    root, out = context(copying(registry, "app:1", "/top/third")), tmp_path / "out"
    built = registry_cluster.build(root, "-o", f"type=local,dest={out}")
    assert (out / "out/third").read_text() == "new"
    assert 0 < pulled_bytes(built) < 10_000
    (use,) = built.step(f"FROM {registry.host}/app:1")["inputs"]
    assert use["bytes_if_layers"] > len(BIG)
    assert registry.requests("GET", "/blobs/") == 2  # the configuration, and one layer


def test_links_into_lower_layers_are_followed_and_hard_links_found(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    push(with_top(image, tmp_path), registry, "app:1")
    root, out = context(copying(registry, "app:1", "/top/link")), tmp_path / "out"
    registry_cluster.build(root, "-o", f"type=local,dest={out}")
    assert (out / "out/link").read_text() == "first\n"


def test_what_is_whited_out_or_missing_is_an_error_that_names_it(
    registry_cluster: Cluster, registry: RealRegistry, image: Path, context: ContextMaker
) -> None:
    push(image, registry, "app:1")
    for path in ("/etc/gone", "/no/such"):
        root = context(copying(registry, "app:1", path))
        failed = registry_cluster.build(root, check=False)
        assert failed.status == 1
        assert path[1:] in failed.stderr


def test_a_part_and_the_whole_image_have_one_cache(
    registry_cluster: Cluster, registry: RealRegistry, image: Path, context: ContextMaker
) -> None:
    push(image, registry, "app:1")
    name = f"{registry.host}/app:1"
    part = f"FROM scratch\nCOPY --from={name} /etc /e/\n"
    registry_cluster.build(context(part))
    whole = f"FROM {name} AS app\nRUN true\nFROM scratch\nCOPY --from={name} /etc /e/\n"
    assert registry_cluster.build(context(whole)).totals["steps_run"] == 0
    # Now the image is here whole; another tag of other bytes has the same /etc.
    registry_cluster.build(context(f"FROM {name}\n"))
    again = registry_cluster.build(context(part), "--no-cache")
    assert again.totals["bytes_moved"] == 0


def test_content_that_is_read_decides_whether_a_step_runs_again(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    push(image, registry, "app:1")
    # The first time of an image that is here whole.
    registry_cluster.build(context(f"FROM {registry.host}/app:1\n"))
    registry_cluster.build(context(copying(registry, "app:1", "/etc")))
    push(with_top(image, tmp_path), registry, "app:2")
    built = registry_cluster.build(context(copying(registry, "app:2", "/etc")))
    steps = {step["name"]: step["cached"] for step in built.metadata["filesync"]["steps"]}
    assert list(steps.values()).count(False) == 1  # the image's, of which a part was read
    assert all(cached for name, cached in steps.items() if "COPY" in name)


def test_a_part_that_was_read_once_is_not_read_again(
    registry_cluster: Cluster, registry: RealRegistry, image: Path, context: ContextMaker
) -> None:
    push(image, registry, "app:1")
    root = context(copying(registry, "app:1", "/etc/name"))
    registry_cluster.build(root)
    blobs = registry.requests("GET", "/blobs/")
    again = registry_cluster.build(root, "--no-cache")
    assert again.totals["steps_run"] == 2
    assert registry.requests("GET", "/blobs/") == blobs


def test_a_part_goes_on_to_another_worker_and_into_a_read_only_mount(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    base: str,
    tmp_path: Path,
) -> None:
    push(image, registry, "app:1")
    name = f"{registry.host}/app:1"
    text = (
        f"FROM base AS one\nRUN --mount=type=bind,from={name},source=/etc,target=/m"
        " cp /m/name /got\n"
        f"FROM base AS two\nRUN --mount=type=bind,from={name},source=/data,target=/m"
        " sh -c 'wc -c < /m/big > /size'\n"
        "FROM scratch\nCOPY --from=one /got /\nCOPY --from=two /size /\n"
    )
    places = ("--place", "one=name=w1", "--place", "two=name=w2")
    out = ("-o", f"type=local,dest={tmp_path / 'out'}")
    built = registry_cluster.build(context(text), "--build-context", base, *places, *out)
    assert (tmp_path / "out/got").read_text() == "first\n"
    assert int((tmp_path / "out/size").read_text()) == len(BIG)
    modes = {
        use["mode"] for step in built.metadata["filesync"]["steps"] for use in step["inputs"]
    }
    assert {"registry", "paths"} <= modes


def test_an_image_that_is_a_stage_is_taken_whole(
    registry_cluster: Cluster, registry: RealRegistry, image: Path, context: ContextMaker
) -> None:
    push(image, registry, "app:1")
    name = f"{registry.host}/app:1"
    text = f"FROM {name}\nCOPY --from={name} /etc/name /again\n"
    built = registry_cluster.build(context(text))
    assert pulled_bytes(built) >= layer_bytes(image) - 2000
    assert max(blobs_of(registry_cluster)) > len(BIG)


# --- eStargz and zstd:chunked -----------------------------------------------------------------


@pytest.fixture
def seekable(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker
) -> Callable[[str], str]:
    """Push an image of many files with a compression; return its name below the registry."""

    def make(compression: str) -> str:
        files = {f"many__{n:03}": f"file {n}\n" * 500 for n in range(300)}
        root = context(
            "FROM scratch\nCOPY --chmod=0640 many /data/many\nCOPY big /data/big\n"
            "COPY many/007 /data/seven\n",
            big=BIG + BIG[:700_000],
            **files,
        )
        name = f"{compression}:1"
        out = f"type=registry,name={registry.host}/{name},compression={compression}"
        registry_cluster.build(root, "-o", out)
        return name

    return make


def manifest_of(registry: RealRegistry, name: str) -> dict[str, Any]:
    repository, _, tag = name.partition(":")
    accept = "application/vnd.oci.image.manifest.v1+json"
    with registry.get(f"/v2/{repository}/manifests/{tag}", accept) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_an_estargz_image_is_read_by_others_and_says_where_its_tables_are(
    seekable: Callable[[str], str],
    registry_cluster: Cluster,
    registry: RealRegistry,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    name = seekable("estargz")
    layers = manifest_of(registry, name)["layers"]
    assert all(TOC_DIGEST in layer["annotations"] for layer in layers)
    assert {layer["mediaType"].rpartition(".")[2] for layer in layers} == {"tar+gzip"}
    layout = tmp_path / "layout"
    skopeo(
        "copy", "--src-tls-verify=false", f"docker://{registry.host}/{name}", f"oci:{layout}:1"
    )
    theirs = unpacked(layout, tmp_path / "bundle")
    for extra in ("stargz.index.json", ".no.prefetch.landmark"):
        (theirs / extra).unlink()
    out = tmp_path / "out"
    root = context(f"FROM {registry.host}/{name}\n")
    registry_cluster.build(root, "-o", f"type=local,dest={out}")
    assert content_of(out) == content_of(theirs)


@pytest.mark.parametrize("compression", ["estargz", "gzip", "zstd"])
def test_of_an_image_in_a_registry_comes_what_is_read(
    compression: str,
    seekable: Callable[[str], str],
    registry: RealRegistry,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    name = seekable(compression)
    whole = sum(layer["size"] for layer in manifest_of(registry, name)["layers"])
    out = tmp_path / "out"
    with start(tmp_path, plain(registry), "fresh", workers=1) as fresh:
        root = context(copying(registry, name, "/data/many/01?"))
        built = fresh.build(root, "-o", f"type=local,dest={out}")
        assert max(blobs_of(fresh)) < 40_000
    assert sorted(path.name for path in (out / "out").iterdir()) == [
        f"{n:03}" for n in range(10, 20)
    ]
    assert (out / "out/013").read_text() == "file 13\n" * 500
    assert ((out / "out/013").stat().st_mode & 0o777) == 0o640
    moved = pulled_bytes(built)
    assert moved < 60_000 if compression == "estargz" else moved <= whole


def test_a_large_file_of_an_estargz_image_comes_in_chunks(
    seekable: Callable[[str], str],
    registry: RealRegistry,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    name = seekable("estargz")
    out = tmp_path / "out"
    with start(tmp_path, plain(registry), "fresh", workers=1) as fresh:
        root = context(copying(registry, name, "/data/big"))
        fresh.build(root, "-o", f"type=local,dest={out}")
    assert (out / "out/big").read_bytes() == BIG + BIG[:700_000]


def test_what_is_pushed_as_estargz_is_built_upon_and_pushed_as_the_same_bytes(
    seekable: Callable[[str], str],
    registry: RealRegistry,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    name = seekable("estargz")
    with start(tmp_path, plain(registry), "fresh", workers=1) as fresh:
        root = context(f"FROM {registry.host}/{name}\nCOPY Dockerfile /added\n")
        fresh.build(
            root, "-o", f"type=registry,name={registry.host}/more:1,compression=estargz"
        )
        on = context(f"FROM {registry.host}/{name}\nENV A=b\n")
        fresh.build(on, "-o", f"type=registry,name={registry.host}/on:1")
    before = manifest_of(registry, name)["layers"]
    after = manifest_of(registry, "more:1")["layers"]
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    assert manifest_of(registry, "on:1")["layers"] == before


def test_an_estargz_image_moves_on_to_another_worker_as_layers(
    seekable: Callable[[str], str],
    registry: RealRegistry,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    name = seekable("estargz")
    text = f"FROM {registry.host}/{name} AS one\nFROM one AS two\nCOPY Dockerfile /added\n"
    places = ("--place", "one=name=w1", "--place", "two=name=w2")
    out = tmp_path / "out"
    with start(tmp_path, plain(registry), "fresh") as fresh:
        built = fresh.build(context(text), *places, "-o", f"type=local,dest={out}")
    assert "layers" in {
        use["mode"] for step in built.metadata["filesync"]["steps"] for use in step["inputs"]
    }
    assert sorted(path.name for path in out.iterdir()) == ["added", "data"]
    assert (out / "data/big").read_bytes() == BIG + BIG[:700_000]


def blob_file(registry: RealRegistry, digest: str) -> Path:
    (found,) = registry.root.glob(f"storage/**/blobs/sha256/*/{digest[7:]}/data")
    return found


def test_a_chunk_that_was_tampered_with_is_refused(
    seekable: Callable[[str], str],
    registry: RealRegistry,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    name = seekable("estargz")
    layer = max(manifest_of(registry, name)["layers"], key=lambda one: int(one["size"]))
    blob = blob_file(registry, layer["digest"])
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    with start(tmp_path, plain(registry), "fresh", workers=1) as fresh:
        failed = fresh.build(context(copying(registry, name, "/data/big")), check=False)
    assert failed.status == 1
    assert "not what its table of contents says" in failed.stderr


def tampered(blob: bytes) -> bytes:
    """Return an eStargz blob of the same size whose table says another digest."""
    begin = toc_offset(blob[-51:])
    assert begin is not None
    tar, room = gzip.decompress(blob[begin:-51]), len(blob) - 51 - begin
    at = tar.index(b"sha256:") + 7
    for digit in range(at, at + 64):
        squeeze = zlib.compressobj(9, wbits=31)
        changed = (
            tar[:digit] + (b"1" if tar[digit : digit + 1] == b"0" else b"0") + tar[digit + 1 :]
        )
        packed = squeeze.compress(changed) + squeeze.flush()
        if len(packed) <= room:
            return blob[:begin] + packed.ljust(room, b"\0") + blob[-51:]
    raise AssertionError("no other digest fits")


def test_a_table_of_contents_that_was_tampered_with_is_refused(
    seekable: Callable[[str], str],
    registry: RealRegistry,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    name = seekable("estargz")
    for layer in manifest_of(registry, name)["layers"]:
        blob = blob_file(registry, layer["digest"])
        blob.write_bytes(tampered(blob.read_bytes()))
    with start(tmp_path, plain(registry), "fresh", workers=1) as fresh:
        failed = fresh.build(context(copying(registry, name, "/data/big")), check=False)
    assert failed.status == 1
    assert "is not the one that its image speaks of" in failed.stderr


def test_a_zstd_chunked_image_that_skopeo_makes_is_read_by_its_table(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    files = {"d__small": "small", "big": BIG}
    root = context("FROM scratch\nCOPY big d /data/\nCOPY d /d/\n", **files)
    layout = tmp_path / "layout"
    registry_cluster.build(
        root, "-o", f"type=oci,tar=false,dest={layout},compression=uncompressed"
    )
    where = f"docker://{registry.host}/app:1"
    options = ("--dest-compress", "--dest-compress-format", "zstd:chunked")
    skopeo("copy", "--dest-tls-verify=false", *options, f"oci:{layout}", where)
    layers = manifest_of(registry, "app:1")["layers"]
    assert all("zstd-chunked.manifest-checksum" in str(one["annotations"]) for one in layers)
    out = tmp_path / "out"
    with start(tmp_path, plain(registry), "fresh", workers=1) as fresh:
        out = tmp_path / "out"
        root = context(copying(registry, "app:1", "/data/small"))
        small = fresh.build(root, "-o", f"type=local,dest={out}")
        assert 0 < pulled_bytes(small) < 60_000
        root = context(copying(registry, "app:1", "/data/big"))
        fresh.build(root, "-o", f"type=local,dest={out}")
    assert (out / "out/big").read_bytes() == BIG
