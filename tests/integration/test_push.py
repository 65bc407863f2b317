"""Results pushed to real registries, from the worker that holds them."""

import asyncio
import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bench.processes import Cluster
from tests.integration.registries import (
    BIG,
    RealRegistry,
    TokenServer,
    content_of,
    login,
    plain,
    pulled_bytes,
    push,
    skopeo,
    start,
    unpacked,
)
from worker.blobs import BlobStore
from worker.registry import Host, Registries
from worker.registry.blobs_http import put_blob
from worker.registry.client_http import RegistryClient
from worker.registry.pushes_http import Pushes
from worker.registry.repository_http import Repository

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs(
    "root", "docker-registry", "htpasswd", "openssl", "skopeo", "umoci"
)


def inspected(registry: RealRegistry, name: str) -> dict[str, object]:
    where = f"docker://{registry.host}/{name}"
    found: dict[str, object] = json.loads(
        skopeo("inspect", "--no-tags", "--tls-verify=false", where)
    )
    return found


def copied(registry: RealRegistry, name: str, layout: Path) -> Path:
    """Copy an image out of a registry into a layout, as ``1``."""
    source = f"docker://{registry.host}/{name}"
    skopeo("copy", "--src-tls-verify=false", source, f"oci:{layout}:1")
    return layout


def test_what_is_pushed_is_what_a_layout_holds_and_others_unpack_it(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    text = "FROM scratch\nCOPY big /data/big\nENV A=b\nCOPY Dockerfile /etc/\n"
    root = context(text, big=BIG)
    name = f"{registry.host}/team/app:1"
    layout, tree = tmp_path / "layout", tmp_path / "tree"
    built = registry_cluster.build(
        root,
        *("-t", name, "--push"),
        *("-o", f"type=oci,tar=false,dest={layout}", "-o", f"type=local,dest={tree}"),
    )
    digest = built.metadata["containerimage.digest"]
    index = json.loads((layout / "index.json").read_text())
    assert index["manifests"][0]["digest"] == digest
    assert inspected(registry, "team/app:1")["Digest"] == digest
    assert f"pushed {name}@{digest}" in built.stderr
    again = copied(registry, "team/app:1", tmp_path / "again")
    assert content_of(unpacked(again, tmp_path / "bundle")) == content_of(tree)
    assert built.totals["bytes_pushed"] > len(BIG)


def test_what_is_pushed_by_digest_has_no_tag_there(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker
) -> None:
    root = context("FROM scratch\nCOPY Dockerfile /etc/\n")
    name = f"{registry.host}/team/nameless"
    asked = f"type=image,name={name},push=true,push-by-digest=true,name-canonical=true"
    built = registry_cluster.build(root, "-o", asked)
    digest = built.metadata["containerimage.digest"]
    assert built.metadata["image.name"] == name
    assert f"pushed {name}@{digest}" in built.stderr
    with pytest.raises(
        RuntimeError, match=r"fetching tags list: (.* 404|repository name not known)"
    ):
        skopeo("list-tags", "--tls-verify=false", f"docker://{name}")
    relayed = context(f"FROM {name}@{digest}\n")
    other = f"{registry.host}/team/other"
    on = registry_cluster.build(
        relayed, "-o", f"type=registry,name={other},push-by-digest=true"
    )
    layers = [
        inspected(registry, where)["Layers"]
        for where in (
            f"team/nameless@{digest}",
            f"team/other@{on.metadata['containerimage.digest']}",
        )
    ]
    assert layers[0] == layers[1]


def test_what_is_pushed_has_the_annotations_and_times_of_what_is_exported(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    root = context("FROM scratch\nCOPY Dockerfile /\n")
    os.utime(root / "Dockerfile", (5000, 5000))
    name, layout = f"{registry.host}/app:1", tmp_path / "layout"
    asked = "annotation.a=b,rewrite-timestamp=true"
    built = registry_cluster.build(
        root,
        *("--build-arg", "SOURCE_DATE_EPOCH=1000"),
        *("-o", f"type=registry,name={name},{asked}"),
        *("-o", f"type=oci,tar=false,dest={layout},{asked}"),
    )
    digest = built.metadata["containerimage.digest"]
    index = json.loads((layout / "index.json").read_text())
    assert index["manifests"][0]["digest"] == digest
    assert inspected(registry, "app:1")["Digest"] == digest
    again = copied(registry, "app:1", tmp_path / "again")
    manifest = json.loads((again / "blobs" / digest.replace(":", "/")).read_text())
    assert manifest["annotations"] == {"a": "b"}
    assert (unpacked(again, tmp_path / "bundle") / "Dockerfile").stat().st_mtime == 1000
    assert built.metadata["image.name"] == name


def test_neither_manager_nor_client_carries_what_is_pushed(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker
) -> None:
    root = context("FROM scratch\nCOPY big /big\n", big=BIG)
    built = registry_cluster.build(root, "-t", f"{registry.host}/app:1", "--push")
    totals = built.totals
    assert totals["bytes_pushed"] > len(BIG)
    assert totals["manager_bytes_received"] + totals["manager_bytes_sent"] < 50_000


def test_what_the_registry_has_is_not_sent_again(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker
) -> None:
    root = context("FROM scratch\nCOPY big /big\n", big=BIG)
    push_it = ("-t", f"{registry.host}/app:1", "--push")
    first = registry_cluster.build(root, *push_it)
    again = registry_cluster.build(root, *push_it)
    assert again.totals["bytes_pushed"] == 0
    assert again.metadata["containerimage.digest"] == first.metadata["containerimage.digest"]


def test_every_tag_of_every_registry_has_the_same_image(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    root = context("FROM scratch\nCOPY Dockerfile /\n")
    names = [f"{registry.host}/{name}" for name in ("app:1", "app:latest", "other/app:1")]
    tags = [word for name in names for word in ("-t", name)]
    layout = tmp_path / "layout"
    export = ("-o", f"type=oci,tar=false,dest={layout}")
    built = registry_cluster.build(root, *tags, "-o", "type=image,push=true", *export)
    digest = built.metadata["containerimage.digest"]
    for name in ("app:1", "app:latest", "other/app:1"):
        assert inspected(registry, name)["Digest"] == digest
    index = json.loads((layout / "index.json").read_text())["manifests"]
    called = [one["annotations"]["io.containerd.image.name"] for one in index]
    assert called == names
    assert {one["digest"] for one in index} == {digest}


def test_two_workers_that_hold_a_result_push_and_export_it_alike(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    text = (
        "FROM scratch AS one\nCOPY big /big\nCOPY Dockerfile /etc/\n"
        "FROM one AS two\nCOPY Dockerfile /two\n"
    )
    root = context(text, big=BIG)
    cluster = registry_cluster
    cluster.build(root, "--place", "one=name=w1", "--place", "two=name=w2")
    digests = []
    for name in ("first", "second"):
        layout = tmp_path / name
        export = f"type=oci,tar=false,dest={layout}"
        tag = ("-t", f"{registry.host}/{name}:1")
        built = cluster.build(root, "--target", "one", *tag, "--push", "-o", export)
        assert built.totals["steps_run"] == 0
        assert f"from {'w1' if name == 'first' else 'w2'}" in built.stderr
        index = json.loads((layout / "index.json").read_text())
        digests += [index["manifests"][0]["digest"], inspected(registry, f"{name}:1")["Digest"]]
        if name == "first":
            # The next build turns to it all the same, and goes on with the other.
            cluster.kill("w1")
    assert len(set(digests)) == 1


def test_what_one_cluster_pushed_another_pulls_and_pushes_as_the_same_bytes(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    root = context("FROM scratch\nCOPY big /big\nCOPY Dockerfile /etc/\n", big=BIG)
    name = f"{registry.host}/app:1"
    zstd = "type=registry,compression=zstd"
    first = registry_cluster.build(root, "-t", name, "-o", zstd)
    layers = inspected(registry, "app:1")["Layers"]
    assert isinstance(layers, list)
    root = context(f"FROM {name}\nCOPY Dockerfile /added\n")
    with start(tmp_path, plain(registry), name="other", workers=1) as other:
        built = other.build(root, "-t", f"{registry.host}/app:2", "--push")
        assert pulled_bytes(built) > len(BIG)
    assert built.metadata["containerimage.digest"] != first.metadata["containerimage.digest"]
    # The base's layers stay zstd: they are not made anew because this push says nothing of it.
    after = inspected(registry, "app:2")["Layers"]
    assert isinstance(after, list)
    assert after[:2] == layers
    assert built.totals["bytes_pushed"] < 10_000


def test_a_base_layer_is_mounted_from_the_repository_that_has_it(
    registry_cluster: Cluster, registry: RealRegistry, image: Path, context: ContextMaker
) -> None:
    push(image, registry, "team/base:1")
    root = context(f"FROM {registry.host}/team/base:1\nCOPY Dockerfile /added\n")
    built = registry_cluster.build(root, "-t", f"{registry.host}/team/app:1", "--push")
    assert built.totals["layers_mounted"] == 3
    assert built.totals["bytes_pushed"] < 10_000
    assert (
        inspected(registry, "team/app:1")["Digest"] == built.metadata["containerimage.digest"]
    )


def test_a_large_blob_goes_up_in_chunks_that_the_registry_puts_together(
    registry: RealRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.registry.upload_http.CHUNK_BYTES", 1_500_000)
    store = BlobStore(tmp_path / "blobs")
    blob = store.ingest([BIG])

    async def give() -> None:
        known = Registries({registry.host: Host(http=True)})
        async with RegistryClient(known) as client:
            place = Repository(client, registry.host, "app", ("repository:app:pull,push",))
            content = Pushes(store).own(blob.digest, lambda _: None)
            assert await put_blob(place, blob.digest, *content)

    asyncio.run(give())
    assert registry.requests('"PATCH') == 3
    with registry.get(f"/v2/app/blobs/{blob.digest}") as answer:
        assert answer.read() == BIG


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ("compression=zstd,compression-level=19", "zstd"),
        ("compression=gzip,compression-level=1", "gzip"),
        ("compression=uncompressed", "tar"),
    ],
)
def test_layers_are_compressed_as_asked(
    registry_cluster: Cluster,
    registry: RealRegistry,
    context: ContextMaker,
    options: str,
    suffix: str,
) -> None:
    root = context("FROM scratch\nCOPY text /text\n", text="some words " * 100_000)
    name = f"{registry.host}/app:1"
    registry_cluster.build(root, "-t", name, "-o", f"type=registry,{options}")
    where = f"docker://{name}"
    raw = json.loads(skopeo("inspect", "--tls-verify=false", "--raw", where))
    assert raw["layers"][0]["mediaType"].endswith(suffix)
    config = json.loads(skopeo("inspect", "--tls-verify=false", "--config", where))
    with registry.get(f"/v2/app/blobs/{raw['layers'][0]['digest']}") as answer:
        layer = opened(answer.read(), suffix)
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]


def opened(blob: bytes, suffix: str) -> bytes:
    if suffix == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(blob)
    return gzip.decompress(blob) if suffix == "gzip" else blob


def test_a_level_of_compression_changes_the_blob_and_not_the_layer(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker
) -> None:
    words = "".join(f"{number * 7919 % 10_007} " for number in range(200_000))
    root = context("FROM scratch\nCOPY text /text\n", text=words)
    sizes, configs = [], set()
    for level in ("1", "9"):
        options = f"type=registry,name={registry.host}/app:{level},compression-level={level}"
        registry_cluster.build(root, "-o", options)
        where = f"docker://{registry.host}/app:{level}"
        raw = json.loads(skopeo("inspect", "--tls-verify=false", "--raw", where))
        sizes.append(raw["layers"][0]["size"])
        configs.add(raw["config"]["digest"])
    assert sizes[0] > sizes[1]
    assert len(configs) == 1


# --- who may ---------------------------------------------------------------------------------


def test_a_push_over_tls_shows_the_users_password(
    context: ContextMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = context("FROM scratch\nCOPY Dockerfile /\n")
    with (
        RealRegistry(tmp_path / "tls", tls=True, user="me", password="secret") as registry,
        start(tmp_path, f'[registry."{registry.host}"]\nca = ["{registry.ca}"]\n') as cluster,
    ):
        push_it = ("-t", f"{registry.host}/app:1", "--push")
        refused = cluster.build(root, *push_it, check=False)
        assert refused.status == 1
        assert f"run `docker login {registry.host}`" in refused.stderr
        monkeypatch.setenv("DOCKER_CONFIG", str(login(tmp_path, registry.host, "me", "secret")))
        cluster.build(root, *push_it)
        wrong = tmp_path / "wrong"
        wrong.mkdir()
        home = login(wrong, registry.host, "me", "mistyped")
        monkeypatch.setenv("DOCKER_CONFIG", str(home))
        refused = cluster.build(root, *push_it, check=False)
        assert "access denied" in refused.stderr
        assert "mistyped" not in refused.stderr
        logs = "".join(path.read_text() for path in cluster.root.glob("*.log"))
        assert "mistyped" not in logs


@pytest.mark.parametrize("step", ["COPY Dockerfile /added", "LABEL only=told"])
def test_tokens_are_fetched_for_just_what_is_done(
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    with (
        TokenServer(tmp_path / "tokens", "me", "secret") as tokens,
        RealRegistry(
            tmp_path / "registry",
            token=f"http://{tokens.host}/token",
            token_ca=tokens.ca,
        ) as registry,
    ):
        home = login(tmp_path, registry.host, "me", "secret")
        monkeypatch.setenv("DOCKER_CONFIG", str(home))
        push(image, registry, "base:1", f"--authfile={home}/config.json")
        tokens.asked.clear()
        config = f'{plain(registry)}[registry."{tokens.host}"]\nhttp = true\n'
        with start(tmp_path, config, workers=1) as cluster:
            root = context(f"FROM {registry.host}/base:1\n{step}\n")
            built = cluster.build(root, "-t", f"{registry.host}/app:1", "--push")
            assert built.totals["layers_mounted"] == 3
        scopes = {tuple(asked) for asked, _ in tokens.asked}
        assert scopes == {
            ("repository:base:pull",),
            ("repository:app:pull,push", "repository:base:pull"),
        }
        assert all(is_right for _, is_right in tokens.asked)


# --- what goes wrong -------------------------------------------------------------------------


def test_a_registry_that_is_not_there_fails_the_build_and_keeps_its_result(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker
) -> None:
    root = context("FROM scratch\nCOPY Dockerfile /\n")
    push_it = ("-t", f"{registry.host}/app:1", "--push")
    registry.stop()
    failed = registry_cluster.build(root, *push_it, check=False)
    assert failed.status == 1
    assert f"{registry.host}: cannot be reached" in failed.stderr
    registry.start()
    assert registry_cluster.build(root, *push_it).totals["steps_run"] == 0


def test_a_push_to_no_name_is_refused_before_the_build(
    registry_cluster: Cluster, context: ContextMaker
) -> None:
    failed = registry_cluster.build(context("FROM scratch\n"), "--push", check=False)
    assert failed.status == 2
    assert "a push needs a name: give -t" in failed.stderr


def bomb() -> bytes:
    """Return a layer of one file of five gigabytes of zeros."""
    member = tarfile.TarInfo("zeros")
    member.size = 5 << 30
    block = bytes(64 << 20)
    squeeze = zstandard.ZstdCompressor().compressobj()
    parts = (member.tobuf(), *[block] * (member.size // len(block)), bytes(1024))
    return b"".join((*map(squeeze.compress, parts), squeeze.flush()))


def layout_of(layout: Path, layer: bytes, diff_id: str) -> Path:
    """Write an image of one zstd layer, as ``1``."""
    (layout / "blobs/sha256").mkdir(parents=True)

    def write(data: bytes, media_type: str) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    kind = "application/vnd.oci.image."
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    config = {"os": "linux", "architecture": "amd64", "rootfs": rootfs}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}manifest.v1+json",
        "config": write(json.dumps(config).encode(), f"{kind}config.v1+json"),
        "layers": [write(layer, f"{kind}layer.v1.tar+zstd")],
    }
    top = write(json.dumps(manifest).encode(), f"{kind}manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


def test_a_layer_that_expands_a_thousandfold_is_refused(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    layer = bomb()
    assert len(layer) < 1_000_000
    # It is refused long before anybody could ask what its diffID is.
    push(layout_of(tmp_path / "bomb", layer, "sha256:" + "0" * 64), registry, "bomb:1")
    failed = registry_cluster.build(context(f"FROM {registry.host}/bomb:1\n"), check=False)
    assert failed.status == 1
    assert "'zeros' is over the limit of a layer's bytes" in failed.stderr
    kept = sum(path.stat().st_blocks for path in (registry_cluster.root).rglob("zeros"))
    assert kept == 0
