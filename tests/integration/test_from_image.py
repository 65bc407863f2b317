"""FROM images in real registries: the bytes go straight to the worker that needs them."""

import base64
import json
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.processes import Cluster
from tests.integration.registries import (
    BIG,
    RealRegistry,
    content_of,
    layer_bytes,
    login,
    plain,
    pulled_bytes,
    push,
    skopeo,
    start,
    tar_of,
    umoci,
    unpacked,
)
from tests.unit.registry.faulty import Fault, FaultyRegistry, sha256

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs(
    "root", "docker-registry", "htpasswd", "openssl", "skopeo", "umoci"
)


# --- pulling ---------------------------------------------------------------------------------


def test_an_image_comes_by_tag_and_is_what_umoci_unpacks(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    push(image, registry, "team/app:1")
    root = context(f"FROM {registry.host}/team/app:1\n")
    built = registry_cluster.build(root, "-o", f"type=local,dest={tmp_path / 'out'}")
    assert content_of(tmp_path / "out") == content_of(unpacked(image, tmp_path / "bundle"))
    assert 0 < layer_bytes(image) - pulled_bytes(built) < 2_000  # the configuration came before
    assert built.step("FROM")["inputs"][0]["source"] == f"{registry.host}/team/app"


def test_neither_manager_nor_client_carries_any_of_it(
    registry_cluster: Cluster, registry: RealRegistry, image: Path, context: ContextMaker
) -> None:
    push(image, registry, "app:1")
    totals = registry_cluster.build(context(f"FROM {registry.host}/app:1\n")).totals
    assert totals["bytes_moved"] > len(BIG)
    assert totals["manager_bytes_received"] + totals["manager_bytes_sent"] < 50_000


def test_an_image_by_digest_and_its_layout_are_one_result(
    registry_cluster: Cluster, registry: RealRegistry, image: Path, context: ContextMaker
) -> None:
    push(image, registry, "app:1")
    index = json.loads((image / "index.json").read_text())
    digest = index["manifests"][0]["digest"]
    assert not registry_cluster.build(context(f"FROM {registry.host}/app@{digest}\n")).step(
        "FROM"
    )["cached"]
    layout = f"base=oci-layout://{image}"
    again = registry_cluster.build(context("FROM base\n"), "--build-context", layout)
    assert again.totals["steps_run"] == 0


def test_a_tag_that_did_not_move_runs_and_pulls_nothing(
    registry_cluster: Cluster, registry: RealRegistry, image: Path, context: ContextMaker
) -> None:
    push(image, registry, "app:1")
    root = context(f"FROM {registry.host}/app:1\nCOPY Dockerfile /\n")
    registry_cluster.build(root)
    blobs = registry.requests("GET", "/blobs/")
    totals = registry_cluster.build(root).totals
    assert totals["steps_run"] == totals["bytes_moved"] == 0
    assert registry.requests("GET", "/blobs/") == blobs


def test_a_tag_that_moved_pulls_only_the_new_layer(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    push(image, registry, "app:1")
    root = context(f"FROM {registry.host}/app:1\n")
    where = ("--place", "stage-0=name=w1")
    registry_cluster.build(root, *where)
    (tmp_path / "third").write_text("new")
    umoci(tmp_path, "insert", "--image", f"{image}:1", str(tmp_path / "third"), "/third")
    push(image, registry, "app:1")
    built = registry_cluster.build(root, *where, "-o", f"type=local,dest={tmp_path / 'out'}")
    assert 0 < pulled_bytes(built) < 10_000
    assert (tmp_path / "out/third").read_text() == "new"


def test_an_image_of_several_layers_moves_on_to_another_worker_as_layers(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    push(image, registry, "app:1")
    root = context(
        f"FROM {registry.host}/app:1 AS one\nFROM one AS two\nCOPY Dockerfile /added\n"
    )
    places = ("--place", "one=name=w1", "--place", "two=name=w2")
    built = registry_cluster.build(root, *places, "-o", f"type=local,dest={tmp_path / 'out'}")
    assert (tmp_path / "out/data/big").read_bytes() == BIG
    assert pulled_bytes(built) > 0


def test_the_image_of_the_builds_platform_is_taken_from_an_index(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    config = ("config", "--image", f"{image}:1")
    umoci(
        tmp_path, *config, "--tag", "arm", "--architecture", "arm64", "--config.env", "CPU=arm"
    )
    index = json.loads((image / "index.json").read_text())
    both = []
    for descriptor in index["manifests"]:
        name = descriptor["annotations"]["org.opencontainers.image.ref.name"]
        architecture = "arm64" if name == "arm" else "amd64"
        both.append(
            {key: descriptor[key] for key in ("mediaType", "digest", "size")}
            | {"platform": {"os": "linux", "architecture": architecture}}
        )
    (tmp_path / "multi/blobs").mkdir(parents=True)
    (tmp_path / "multi/blobs/sha256").symlink_to(image / "blobs/sha256")
    (tmp_path / "multi/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    kind = "application/vnd.oci.image.index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": both}).encode()
    made = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout
    digest = made.decode().split()[0]
    (image / "blobs/sha256" / digest).write_bytes(data)
    entry = {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    top = {"schemaVersion": 2, "manifests": [entry]}
    (tmp_path / "multi/index.json").write_text(json.dumps(top))
    push(tmp_path / "multi", registry, "app:1", "--all")
    root = context(f"FROM {registry.host}/app:1\n")
    layout = tmp_path / "out"
    registry_cluster.build(root, "-o", f"type=oci,tar=false,dest={layout}")
    assert "COLOUR=green" in skopeo("inspect", "--config", f"oci:{layout}")
    assert '"amd64"' in skopeo("inspect", "--config", f"oci:{layout}")
    assert "CPU=arm" not in skopeo("inspect", "--config", f"oci:{layout}")


def test_dockers_schema_2_builds_and_is_exported_as_oci(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    push(image, registry, "app:1", "--format", "v2s2")
    root = context(f"FROM {registry.host}/app:1\nCOPY Dockerfile /added\n")
    layout = tmp_path / "out"
    registry_cluster.build(root, "-t", "app:1", "-o", f"type=oci,tar=false,dest={layout}")
    raw = json.loads(skopeo("inspect", "--raw", f"oci:{layout}:1"))
    assert {one["mediaType"] for one in raw["layers"]} == {
        "application/vnd.oci.image.layer.v1.tar+gzip"
    }
    rootfs = unpacked(layout, tmp_path / "bundle")
    assert (rootfs / "data/big").read_bytes() == BIG
    assert not (rootfs / "etc/gone").exists()


# --- how registries are reached --------------------------------------------------------------


def test_a_registry_is_known_by_its_ca_and_its_user_by_dockers_login(
    image: Path, context: ContextMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "correct-horse"
    with (
        RealRegistry(tmp_path / "tls", tls=True, user="me", password=secret) as registry,
        start(tmp_path, f'[registry."{registry.host}"]\nca = ["{registry.ca}"]\n') as cluster,
    ):
        push(image, registry, "app:1", f"--dest-creds=me:{secret}")
        root = context(f"FROM {registry.host}/app:1\n")
        refused = cluster.build(root, check=False)
        assert f"run `docker login {registry.host}`" in refused.stderr
        home = login(tmp_path, registry.host, "me", secret)
        monkeypatch.setenv("DOCKER_CONFIG", str(home))
        assert pulled_bytes(cluster.build(root)) > len(BIG)
        cluster.stop()
        kept = [path for path in cluster.root.rglob("*") if path.is_file()]
        auth = base64.b64encode(f"me:{secret}".encode())
        for path in kept:
            data = path.read_bytes()
            assert secret.encode() not in data, path
            assert auth not in data, path


def test_a_registry_that_nobody_vouches_for_is_not_spoken_to(
    image: Path, context: ContextMaker, tmp_path: Path
) -> None:
    with (
        RealRegistry(tmp_path / "tls", tls=True) as registry,
        start(tmp_path, f'[registry."{registry.host}"]\nhttp = false\n', workers=1) as cluster,
    ):
        push(image, registry, "app:1")
        failed = cluster.build(context(f"FROM {registry.host}/app:1\n"), check=False)
        assert failed.status != 0
        assert "nobody we know vouches for its certificate" in failed.stderr
        assert "configure its `ca`" in failed.stderr


def test_a_registry_here_that_speaks_tls_has_to_be_named(
    image: Path, context: ContextMaker, tmp_path: Path
) -> None:
    with (
        RealRegistry(tmp_path / "tls", tls=True) as registry,
        start(tmp_path, "", workers=1) as cluster,
    ):
        push(image, registry, "app:1")
        failed = cluster.build(context(f"FROM {registry.host}/app:1\n"), check=False)
        assert failed.status != 0
        assert "if it speaks TLS, configure it with `http = false`" in failed.stderr


def test_a_credential_helper_is_asked_for_that_registry(
    image: Path, context: ContextMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RealRegistry(tmp_path / "basic", user="me", password="secret") as registry:
        push(image, registry, "app:1", "--dest-creds=me:secret")
        bin_, home = tmp_path / "bin", tmp_path / "docker"
        bin_.mkdir()
        home.mkdir()
        helper = bin_ / "docker-credential-test"
        answer = '{"ServerURL": "x", "Username": "me", "Secret": "secret"}'
        helper.write_text(
            f"#!/bin/sh\nread host\necho $1 $host >> {tmp_path}/asked\necho '{answer}'\n"
        )
        helper.chmod(0o755)
        config = {"credHelpers": {registry.host: "test"}}
        (home / "config.json").write_text(json.dumps(config))
        monkeypatch.setenv("DOCKER_CONFIG", str(home))
        monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
        with start(tmp_path, plain(registry), workers=1) as cluster:
            cluster.build(context(f"FROM {registry.host}/app:1\n"))
        asked = (tmp_path / "asked").read_text().splitlines()
        assert set(asked) == {f"get {registry.host}"}


def test_a_mirror_is_asked_before_the_registry_itself(
    registry: RealRegistry, image: Path, context: ContextMaker, tmp_path: Path
) -> None:
    push(image, registry, "cache/team/app:1")
    config = (
        f'{plain(registry)}[registry."nowhere.invalid"]\nmirrors = ["{registry.host}/cache"]\n'
    )
    with start(tmp_path, config, workers=1) as cluster:
        assert pulled_bytes(cluster.build(context("FROM nowhere.invalid/team/app:1\n"))) > len(
            BIG
        )


def test_an_image_that_is_not_there_fails_the_build_at_its_line(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker
) -> None:
    text = f"FROM scratch AS tools\nFROM {registry.host}/none:1\nCOPY --from=tools / /\n"
    failed = registry_cluster.build(context(text), check=False)
    assert failed.status == 2
    assert f"Dockerfile:2: {registry.host}/none:1: not found" in failed.stderr


def test_a_name_that_is_not_found_may_be_meant_for_another_and_one_out_of_reach_not(
    registry_cluster: Cluster, registry: RealRegistry, context: ContextMaker
) -> None:
    for host, is_guessed in ((registry.host, True), ("nowhere.invalid", False)):
        stage = f"n{host.replace(':', '.')}.team.app"
        text = f"FROM scratch AS {stage}\nFROM {host}/team/app\nCOPY --from={stage} / /\n"
        failed = registry_cluster.build(context(text), check=False)
        assert (f"(did you mean {stage}?)" in failed.stderr) == is_guessed, failed.stderr


def test_a_registry_that_cannot_be_reached_is_no_wrong_usage(
    registry_cluster: Cluster, context: ContextMaker
) -> None:
    failed = registry_cluster.build(context("FROM nowhere.invalid/team/app:1\n"), check=False)
    assert failed.status == 1
    assert "Dockerfile:1: nowhere.invalid: cannot be reached" in failed.stderr


# --- kills -----------------------------------------------------------------------------------


def test_a_worker_killed_while_it_pulls_goes_on_from_what_it_had(
    context: ContextMaker, tmp_path: Path
) -> None:
    with (
        FaultyRegistry() as registry,
        start(tmp_path, f'[registry."{registry.host}"]\nhttp = true\n', workers=1) as cluster,
    ):
        layer = tar_of("big", BIG)
        blob = f"app/blobs/{sha256(layer)}"
        rootfs = {"type": "layers", "diff_ids": [sha256(layer)]}
        config = {"os": "linux", "architecture": "amd64", "rootfs": rootfs}
        registry.add_image("1", layer, config=json.dumps(config).encode())
        registry.faults[blob] = [Fault(cut=3_500_000, stall=True)]
        root = context(f"FROM {registry.host}/app:1\n")
        out = tmp_path / "out"
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(cluster.build, root, "-o", f"type=local,dest={out}")
            partial = cluster.root / "w1/blobs/partial" / sha256(layer).removeprefix("sha256:")
            while not partial.exists() or partial.stat().st_size < 3 << 20:
                time.sleep(0.02)
            cluster.kill("w1")
            cluster.start_worker("w1")
            built = building.result()
        first, second = registry.asked(blob)
        assert "Range" not in first.headers
        at = int(second.headers["Range"].strip("bytes=-"))
        assert at >= 3 << 20
        assert pulled_bytes(built) == len(layer) - at
        assert (out / "big").read_bytes() == BIG
