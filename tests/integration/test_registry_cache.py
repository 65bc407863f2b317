"""Caches in real registries, and in images: what one cluster has built another does not run."""

import base64
import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bench.processes import BuildRun, Cluster, run
from tests.integration.registries import (
    RealRegistry,
    login,
    plain,
    pulled_bytes,
    skopeo,
    start,
)
from tests.integration.test_cache import DOCKERFILE, ran

Document = dict[str, Any]
Change = Callable[[Document, Document], None]
ContextMaker = Callable[..., Path]
Clusters = Callable[..., Cluster]

pytestmark = pytest.mark.needs("root", "docker-registry", "skopeo", "umoci")

CACHE = "application/vnd.buildkit.cacheconfig.v0"
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ANY = f"{OCI}, {INDEX}, {DOCKER_LIST}"
BIG = "FROM base\nRUN head -c 3000000 /dev/urandom > /big\nRUN wc -c /big > /size\n"


@pytest.fixture
def fresh(tmp_path: Path, registry: RealRegistry) -> Iterator[Clusters]:
    """Start clusters whose workers know the registry."""
    with ExitStack() as stack:

        def begin(name: str, workers: int = 2) -> Cluster:
            return stack.enter_context(start(tmp_path, plain(registry), name, workers))

        yield begin


def manifest_of(registry: RealRegistry, name: str) -> tuple[str, dict[str, Any]]:
    """Return a manifest's digest and what it says."""
    path, _, tag = name.partition(":")
    with registry.get(f"/v2/{path}/manifests/{tag}", ANY) as answer:
        data = answer.read()
    value: dict[str, Any] = json.loads(data)
    return f"sha256:{sha256(data).hexdigest()}", value


def blob(registry: RealRegistry, path: str, digest: str) -> bytes:
    with registry.get(f"/v2/{path}/blobs/{digest}") as answer:
        data = answer.read()
    assert digest == f"sha256:{sha256(data).hexdigest()}"
    return data


def described(manifest: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the descriptors of a cache's config and of its layers."""
    if "config" in manifest:
        return manifest["config"], manifest["layers"]
    *layers, config = manifest["manifests"]
    return config, layers


def check_carried(built: BuildRun, *, context_bytes: int = 0) -> None:
    """No blob went through the client, and nothing as large as one through the manager."""
    totals = built.totals
    assert totals["client_bytes_received"] == 0
    assert totals["client_bytes_sent"] <= context_bytes
    assert totals["manager_bytes_received"] + totals["manager_bytes_sent"] < 500_000


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("", OCI),
        (",image-manifest=false", INDEX),
        (",image-manifest=false,oci-mediatypes=false", DOCKER_LIST),
    ],
)
def test_what_a_cluster_built_runs_nowhere_else_in_each_form_of_manifest(
    fresh: Clusters,
    registry: RealRegistry,
    context: ContextMaker,
    base: str,
    options: str,
    kind: str,
) -> None:
    root = context(DOCKERFILE, input="some input\n")
    name = f"{registry.host}/team/app:cache"
    to = ("--cache-to", f"type=registry,ref={name},mode=max{options}")
    first = fresh("first").build(root, "--build-context", base, *to)
    assert ran(first)
    digest, manifest = manifest_of(registry, "team/app:cache")
    assert f"cache {name}@{digest}" in first.stderr
    assert manifest["mediaType"] == kind
    config, layers = described(manifest)
    assert config["mediaType"] == CACHE
    named = json.loads(blob(registry, "team/app", config["digest"]))["layers"]
    assert {one["blob"] for one in named} == {one["digest"] for one in layers}
    for layer in layers:
        assert len(blob(registry, "team/app", layer["digest"])) == layer["size"]
    again = fresh("second", 1).build(
        root, "--build-context", base, "--cache-from", f"type=registry,ref={name}"
    )
    assert ran(again) == []


def test_blobs_go_between_registry_and_worker_and_only_those_that_are_needed(
    fresh: Clusters, registry: RealRegistry, context: ContextMaker, base: str
) -> None:
    text = BIG.replace("FROM base\n", "FROM scratch AS other\nCOPY input /\nFROM base\n")
    root = context(text + "COPY --from=other input /\n", input=b"x" * 1000)
    name = f"{registry.host}/app:cache"
    to = ("--cache-to", f"type=registry,ref={name},mode=max")
    first = fresh("first", 1).build(root, "--build-context", base, *to)
    layout = Path(base.partition("://")[2])
    sent = sum(path.stat().st_size for path in layout.rglob("*") if path.is_file())
    check_carried(first, context_bytes=sent + 10_000)
    _, manifest = manifest_of(registry, "app:cache")
    _, layers = described(manifest)
    again = fresh("second", 1).build(root, "--build-context", base, "--cache-from", name)
    assert ran(again) == []
    check_carried(again)
    steps = [s for s in again.metadata["filesync"]["steps"] if s["inputs"]]
    assert [use["mode"] for s in steps for use in s["inputs"]] == ["registry"]
    # The target's own layers came, and not that of the other stage; nothing came through others.
    assert 3_000_000 < pulled_bytes(again) < sum(layer["size"] for layer in layers)
    assert again.totals["bytes_moved"] == pulled_bytes(again)


def test_a_cache_goes_from_job_to_job_also_to_another_repository(
    fresh: Clusters, registry: RealRegistry, context: ContextMaker, base: str
) -> None:
    root = context(DOCKERFILE, input="some input\n")
    one, two = (f"{registry.host}/{name}" for name in ("one:cache", "team/two:cache"))
    arguments = ("--build-context", base)
    to = ("--cache-to", f"type=registry,ref={one},mode=max")
    fresh("first", 1).build(root, *arguments, *to)
    # Neither job looks at the steps before the target; all of them go on.
    middle = fresh("second", 1)
    onward = ("--cache-from", one, "--cache-to")
    assert (
        ran(middle.build(root, *arguments, *onward, f"type=registry,ref={one},mode=max")) == []
    )
    before, _ = manifest_of(registry, "one:cache")
    again = fresh("third", 1).build(
        root, *arguments, *onward, f"type=registry,ref={two},mode=max"
    )
    assert ran(again) == []
    digest, manifest = manifest_of(registry, "team/two:cache")
    assert digest == before
    for layer in described(manifest)[1]:
        assert len(blob(registry, "team/two", layer["digest"])) == layer["size"]
    last = fresh("fourth", 1).build(root, *arguments, "--target", "tools", "--cache-from", two)
    assert ran(last) == []


def test_the_same_cache_is_the_same_manifest_and_sends_nothing_again(
    fresh: Clusters, registry: RealRegistry, context: ContextMaker, base: str
) -> None:
    root = context(DOCKERFILE, input="some input\n")
    cluster = fresh("first")
    names = [f"{registry.host}/app:{tag}" for tag in ("one", "two")]
    lines: list[str] = []
    for name in names:
        to = ("--cache-to", f"type=registry,ref={name},mode=max")
        built = cluster.build(root, "--build-context", base, *to)
        lines += [line for line in built.stderr.splitlines() if line.startswith("cache ")]
    assert manifest_of(registry, "app:one") == manifest_of(registry, "app:two")
    assert " 0 B sent" not in lines[0]
    assert " 0 B sent" in lines[1]


def test_a_cache_written_after_a_result_was_copied_is_the_same_bytes(
    fresh: Clusters, registry: RealRegistry, context: ContextMaker
) -> None:
    root = context("FROM scratch\nCOPY input /\n", input="some input\n" * 1000)
    cluster = fresh("first")
    to = ("--cache-to", f"type=registry,ref={registry.host}/app:one")
    step = cluster.build(root, *to).step("COPY")
    other = "w2" if step["worker"] == "w1" else "w1"
    moved = run(
        "transfer-cache", "--manager", cluster.manager, step["key"], step["worker"], other
    )
    assert moved.returncode == 0, moved.stderr
    # The copy alone is left to write it.
    cluster.stop_one(step["worker"])
    again = cluster.build(root, "--cache-to", f"type=registry,ref={registry.host}/app:two")
    assert ran(again) == []
    assert manifest_of(registry, "app:one") == manifest_of(registry, "app:two")


@pytest.mark.parametrize("compression", ["gzip", "uncompressed"])
def test_layers_in_a_cache_are_compressed_as_asked(
    fresh: Clusters, registry: RealRegistry, context: ContextMaker, compression: str
) -> None:
    root = context("FROM scratch\nCOPY input /\n", input="x" * 100_000)
    name = f"{registry.host}/app:cache"
    to = ("--cache-to", f"type=registry,ref={name},compression={compression}")
    fresh("first", 1).build(root, *to)
    (layer,) = described(manifest_of(registry, "app:cache")[1])[1]
    ending = {"gzip": "tar+gzip", "uncompressed": "tar"}[compression]
    assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.{ending}"
    assert ran(fresh("second", 1).build(root, "--cache-from", name)) == []


# --- inline -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked", [("--cache-to", "type=inline"), ("--build-arg", "BUILDKIT_INLINE_CACHE=1")]
)
def test_an_image_has_its_own_cache_in_it(
    fresh: Clusters,
    registry: RealRegistry,
    context: ContextMaker,
    base: str,
    asked: tuple[str, str],
) -> None:
    root = context(DOCKERFILE, input="some input\n")
    name = f"{registry.host}/app:1"
    arguments = ("--build-context", base, "-t", name, "--push", *asked)
    first = fresh("first").build(root, *arguments)
    digest, manifest = manifest_of(registry, "app:1")
    assert first.metadata["containerimage.digest"] == digest
    config = json.loads(blob(registry, "app", manifest["config"]["digest"]))
    records = json.loads(base64.b64decode(config["moby.buildkit.cache.v0"]))
    places = {one["layer"] for record in records for one in record.get("layers", ())}
    # Every layer above the base's is the result of a step.
    count = len(manifest["layers"])
    assert places == {count - 3, count - 2, count - 1}
    second = fresh("second", 1)
    again = second.build(root, *arguments, "--cache-from", name)
    assert ran(again) == []
    check_carried(again)
    # What came out of the image makes the image that it came out of, cache and all.
    assert again.metadata["containerimage.digest"] == digest
    other = fresh("third", 1).build(
        root, "--build-context", base, "--cache-from", f"type=registry,ref={name}@{digest}"
    )
    assert ran(other) == []


def test_others_run_an_image_with_a_cache_in_it_and_a_layout_has_one_too(
    fresh: Clusters, registry: RealRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    root = context("FROM scratch\nCOPY input /\n", input="some input\n")
    layout = tmp_path / "layout"
    name = f"{registry.host}/app:1"
    built = fresh("first", 1).build(
        root,
        *("-o", f"type=oci,tar=false,dest={layout},name={name}", "-t", name, "--push"),
        *("--cache-to", "type=inline"),
    )
    where = f"docker://{registry.host}/app:1"
    inspected = json.loads(skopeo("inspect", "--raw", "--config", "--tls-verify=false", where))
    assert "moby.buildkit.cache.v0" in inspected
    index = json.loads((layout / "index.json").read_text())
    assert index["manifests"][0]["digest"] == built.metadata["containerimage.digest"]


def test_only_what_stands_on_a_changed_step_runs_with_an_image_as_the_cache(
    fresh: Clusters, registry: RealRegistry, context: ContextMaker, base: str
) -> None:
    text = "FROM base\nRUN echo one > /one\nCOPY input /input\nRUN cat /input > /out\n"
    root = context(text, input="before\n")
    name = f"{registry.host}/app:1"
    arguments = ("--build-context", base, "-t", name, "--push", "--cache-to", "type=inline")
    fresh("first", 1).build(root, *arguments)
    (root / "input").write_text("after\n")
    again = fresh("second", 1).build(root, *arguments, "--cache-from", name)
    assert again.step("echo one")["cached"]
    assert len(ran(again)) == 2


# --- what goes wrong --------------------------------------------------------------------------


def test_a_cache_that_is_not_there_is_a_warning_and_the_next_one_is_looked_into(
    fresh: Clusters, registry: RealRegistry, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context(DOCKERFILE, input="some input\n")
    there, gone = f"{registry.host}/app:cache", f"{registry.host}/app:gone"
    local = tmp_path / "cache"
    first = fresh("first", 1)
    first.build(root, "--build-context", base, "--cache-to", f"type=registry,ref={there}")
    first.build(
        root,
        *("--build-context", base, "--target", "tools"),
        *("--cache-to", f"type=local,dest={local}"),
    )
    sources = (gone, f"type=local,src={local}", there)
    options = [part for source in sources for part in ("--cache-from", source)]
    again = fresh("second", 1).build(
        root, "--build-context", base, *options, "-o", "type=cacheonly"
    )
    assert ran(again) == []
    warnings = [line for line in again.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert f"--cache-from {gone} is not used" in warnings[0]
    tools = again.step("mkdir /out") if "mkdir /out" in json.dumps(again.metadata) else None
    assert tools is None or tools["cached"]


def test_an_image_without_a_cache_is_a_warning_that_says_what_to_do(
    fresh: Clusters, registry: RealRegistry, context: ContextMaker
) -> None:
    root = context("FROM scratch\nCOPY input /\n", input="some input\n")
    name = f"{registry.host}/app:1"
    fresh("first", 1).build(root, "-t", name, "--push")
    again = fresh("second", 1).build(root, "--cache-from", name)
    assert "has no cache in it; --cache-to" in again.stderr
    assert len(ran(again)) == 1


def test_who_is_not_let_in_has_no_cache_and_cannot_write_one(
    context: ContextMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = context("FROM scratch\nCOPY input /\n", input="some input\n")
    with RealRegistry(tmp_path / "closed", user="ann", password="secret") as registry:
        name = f"{registry.host}/app:cache"
        to = ("--cache-to", f"type=registry,ref={name}")
        with start(tmp_path, plain(registry), "stranger", 1) as cluster:
            refused = cluster.build(root, *to, check=False)
            assert refused.status != 0
            assert registry.host in refused.stderr
            told = cluster.build(root, "--no-cache", "--cache-to", f"{to[1]},ignore-error=true")
            assert f"warning: --cache-to {name} was not written" in told.stderr
            missed = cluster.build(root, "--cache-from", name)
            assert f"--cache-from {name} is not used" in missed.stderr
        monkeypatch.setenv(
            "DOCKER_CONFIG", str(login(tmp_path, registry.host, "ann", "secret"))
        )
        with start(tmp_path, plain(registry), "ann1", 1) as cluster:
            cluster.build(root, *to)
            logs = "".join(path.read_text() for path in cluster.root.glob("*.log"))
        with start(tmp_path, plain(registry), "ann2", 1) as cluster:
            assert ran(cluster.build(root, "--cache-from", name)) == []
            logs += "".join(path.read_text() for path in cluster.root.glob("*.log"))
        assert "secret" not in logs


def altered(registry: RealRegistry, change: Change) -> None:
    """Give app:cache another manifest and config: ``change`` is told both."""
    _, manifest = manifest_of(registry, "app:cache")
    config = json.loads(blob(registry, "app", manifest["config"]["digest"]))
    change(manifest, config)
    data = json.dumps(config).encode()
    digest = f"sha256:{sha256(data).hexdigest()}"
    manifest["config"] |= {"digest": digest, "size": len(data)}
    root = f"http://{registry.host}/v2/app"
    where = send("POST", f"{root}/blobs/uploads/", b"", "application/octet-stream")
    send("PUT", f"{where}&digest={digest}", data, "application/octet-stream")
    send("PUT", f"{root}/manifests/cache", json.dumps(manifest).encode(), OCI)


def send(method: str, url: str, data: bytes, kind: str) -> str:
    """Return where the registry says to go on."""
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": kind}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.headers.get("Location", ""))


def unknown_fields(manifest: Document, config: Document) -> None:
    manifest["annotations"] = {"from": "later"}
    manifest["later"] = [1, {"a": None}]
    config["later"] = {"more": True}
    for one in (*config["layers"], *config["records"]):
        one["later"] = "x"


def wrong_sizes(manifest: Document, config: Document) -> None:
    for number, layer in enumerate(manifest["layers"]):
        layer["size"] = (1, 1 << 40)[number % 2]
    for layer in config["layers"]:
        layer["annotations"] = {"size": 7}


@pytest.mark.parametrize("change", [unknown_fields, wrong_sizes])
def test_what_a_cache_says_beside_what_it_must_is_not_believed_or_minded(
    fresh: Clusters,
    registry: RealRegistry,
    context: ContextMaker,
    base: str,
    change: Change,
) -> None:
    root = context(DOCKERFILE, input="some input\n")
    name = f"{registry.host}/app:cache"
    to = ("--cache-to", f"type=registry,ref={name},mode=max")
    fresh("first", 1).build(root, "--build-context", base, *to)
    altered(registry, change)
    again = fresh("second", 1).build(root, "--build-context", base, "--cache-from", name)
    assert ran(again) == []


def other_diff_id(manifest: Document, config: Document) -> None:
    for layer in manifest["layers"]:
        layer["annotations"]["containerd.io/uncompressed"] = f"sha256:{'1' * 64}"


def no_config(manifest: Document, config: Document) -> None:
    config["records"] = [{"digest": "x", "inputs": [[{"link": 99}]]}]


@pytest.mark.parametrize(("change", "is_told"), [(other_diff_id, False), (no_config, True)])
def test_a_cache_in_a_registry_that_lies_is_a_miss(
    fresh: Clusters,
    registry: RealRegistry,
    context: ContextMaker,
    base: str,
    change: Change,
    is_told: bool,
) -> None:
    root = context("FROM base\nRUN echo made > /made\n")
    name = f"{registry.host}/app:cache"
    to = ("--cache-to", f"type=registry,ref={name}")
    fresh("first", 1).build(root, "--build-context", base, *to)
    altered(registry, change)
    again = fresh("second", 1).build(root, "--build-context", base, "--cache-from", name)
    assert len(ran(again)) == 1
    assert ("is not used" in again.stderr) == is_told
