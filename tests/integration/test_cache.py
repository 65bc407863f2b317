"""Caches that leave a cluster and come to another: real clusters, layouts on disk."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bench.processes import BuildRun, Cluster, run

ContextMaker = Callable[..., Path]
Clusters = Callable[..., Cluster]

DOCKERFILE = """
FROM base AS tools
COPY input /input
RUN mkdir /out && cat /input > /out/made && echo one > /out/more
FROM base
RUN echo first > /first
COPY --from=tools /out/made /made
RUN cat /made /first > /both
"""


def index_of(layout: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((layout / "index.json").read_text())
    return value


def blob(layout: Path, digest: str) -> bytes:
    data = (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
    assert digest == f"sha256:{sha256(data).hexdigest()}"
    return data


def cached(layout: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a cache's manifest and its config."""
    (entry,) = index_of(layout)["manifests"]
    manifest = json.loads(blob(layout, entry["digest"]))
    configs = [manifest["config"]] if "config" in manifest else manifest["manifests"][-1:]
    assert configs[0]["mediaType"] == "application/vnd.buildkit.cacheconfig.v0"
    return manifest, json.loads(blob(layout, configs[0]["digest"]))


def ran(built: BuildRun) -> list[str]:
    """Return the commands and copies that were carried out."""
    steps = built.metadata["filesync"]["steps"]
    return [
        s["name"]
        for s in steps
        if not s["cached"] and ("RUN" in s["name"] or "COPY" in s["name"])
    ]


@pytest.mark.parametrize("image", ["true", "false"])
def test_an_empty_cluster_with_the_cache_runs_nothing_and_exports_the_same_image(
    clusters: Clusters, context: ContextMaker, base: str, tmp_path: Path, image: str
) -> None:
    root = context(DOCKERFILE, input="some input\n")
    cache, layout = tmp_path / "cache", tmp_path / "layout"
    arguments = ("--build-context", base, "-o", f"type=oci,tar=false,dest={layout}")
    to = f"type=local,dest={cache},mode=max,image-manifest={image}"
    first = clusters("first").build(root, *arguments, "--cache-to", to)
    assert ran(first)
    digest = index_of(layout)["manifests"][0]["digest"]
    shutil.rmtree(layout)
    second = clusters("second", workers=1)
    again = second.build(root, *arguments, "--cache-from", f"type=local,src={cache}")
    assert ran(again) == []
    assert index_of(layout)["manifests"][0]["digest"] == digest
    # What came is known like anything that was built there.
    third = second.build(root, *arguments)
    assert ran(third) == []


def test_a_cache_holds_every_layer_with_its_bytes_and_is_written_in_one_way(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context(DOCKERFILE, input="some input\n")
    caches = [tmp_path / name for name in ("one", "two", "min")]
    options = [
        ("--cache-to", f"type=local,dest={cache},mode={mode}")
        for cache, mode in zip(caches, ("max", "max", "min"), strict=True)
    ]
    cluster.build(root, "--build-context", base, *options[0], *options[2])
    cluster.build(root, "--build-context", base, *options[1])
    assert (caches[0] / "index.json").read_bytes() == (caches[1] / "index.json").read_bytes()
    manifest, config = cached(caches[0])
    for layer in manifest["layers"]:
        assert len(blob(caches[0], layer["digest"])) == layer["size"]
    described = {layer["digest"] for layer in manifest["layers"]}
    assert {layer["blob"] for layer in config["layers"]} == described
    smaller, _ = cached(caches[2])
    assert {layer["digest"] for layer in smaller["layers"]} < described


def test_with_the_results_of_stages_only_what_changed_runs(
    clusters: Clusters, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context(DOCKERFILE, input="some input\n")
    cache = tmp_path / "cache"
    to = ("--cache-to", f"type=local,dest={cache},mode=max")
    clusters("first", workers=1).build(root, "--build-context", base, *to)
    # Another first stage with the same output: what copies from it is found by content.
    changed = DOCKERFILE.replace("echo one", "echo two")
    root = context(changed, input="some input\n")
    from_cache = ("--cache-from", f"type=local,src={cache}")
    again = clusters("second").build(root, "--build-context", base, *from_cache)
    assert [name for name in ran(again) if "RUN" in name] == [again.step("echo two")["name"]]
    assert again.step("cat /made /first")["cached"]


def test_a_cache_that_goes_from_job_to_job_loses_nothing_that_was_not_looked_at(
    clusters: Clusters, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context(DOCKERFILE, input="some input\n")
    one, two = tmp_path / "one", tmp_path / "two"
    to = ("--cache-to", f"type=local,dest={one},mode=max")
    clusters("first", workers=1).build(root, "--build-context", base, *to)
    # The target is found at once, and nothing is learnt of the steps before it.
    onward = (
        "--cache-from",
        f"type=local,src={one}",
        "--cache-to",
        f"type=local,dest={two},mode=max",
    )
    middle = clusters("second", workers=1).build(root, "--build-context", base, *onward)
    assert ran(middle) == []
    before, after = cached(one)[1], cached(two)[1]
    assert after["layers"] == before["layers"]
    for layer in after["layers"]:
        blob(two, layer["blob"])
    from_cache = ("--cache-from", f"type=local,src={two}")
    last = clusters("third", workers=1).build(
        root, "--build-context", base, "--target", "tools", *from_cache
    )
    assert ran(last) == []


def test_the_worker_takes_the_blobs_from_the_client_and_the_manager_carries_none(
    clusters: Clusters, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    text = "FROM base\nRUN head -c 3000000 /dev/urandom > /big\n"
    root = context(text)
    cache = tmp_path / "cache"
    to = ("--cache-to", f"type=local,dest={cache}")
    clusters("first", workers=1).build(root, "--build-context", base, *to)
    from_cache = ("--cache-from", f"type=local,src={cache}")
    again = clusters("second", workers=1).build(root, "--build-context", base, *from_cache)
    assert ran(again) == []
    totals = again.totals
    assert totals["manager_bytes_received"] + totals["manager_bytes_sent"] < 1_000_000
    (step,) = [s for s in again.metadata["filesync"]["steps"] if "RUN" in s["name"]]
    assert step["inputs"][0]["from"] == ["client"]
    assert step["inputs"][0]["bytes_moved"] > 3_000_000


def damage(cache: Path, kind: str) -> None:
    """Spoil the layer that the build made, or the cache's index."""
    manifest, _ = cached(cache)
    (made,) = [one for one in manifest["layers"] if "filesync/made" in one["annotations"]]
    path = cache / "blobs" / "sha256" / made["digest"].removeprefix("sha256:")
    match kind:
        case "bytes":
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        case "gone":
            path.unlink()
        case "index":
            (cache / "index.json").write_text("[")
        case _:
            shutil.rmtree(cache)


@pytest.mark.parametrize("kind", ["bytes", "gone", "index", "nothing"])
def test_a_damaged_cache_is_a_miss_and_the_build_goes_on(
    clusters: Clusters, context: ContextMaker, base: str, tmp_path: Path, kind: str
) -> None:
    root = context("FROM base\nRUN echo made > /made\n")
    cache = tmp_path / "cache"
    to = ("--cache-to", f"type=local,dest={cache}")
    one = clusters("first", workers=1)
    one.build(root, "--build-context", base, *to)
    damage(cache, kind)
    two = clusters("second", workers=1)
    from_cache = ("--cache-from", f"type=local,src={cache}")
    again = two.build(root, "--build-context", base, *from_cache)
    assert len(ran(again)) == 1
    assert ("is not used" in again.stderr) == (kind in ("index", "nothing"))


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (("--cache-to", "type=registry,ref=r.example/c,tag=x"), "is none of"),
        (("--cache-to", "type=registry,mode=max"), "ref=REGISTRY/NAME:TAG"),
        (("--cache-to", f"r.example/c@sha256:{'1' * 64}"), "name a tag"),
        (
            ("--cache-to", "type=registry,ref=r.example/c,oci-mediatypes=false"),
            "image-manifest",
        ),
        (("--cache-to", "type=registry,ref=r.example/c,compression=best"), "gzip"),
        (("--cache-to", "type=inline"), "there is none: give -t NAME --push"),
        (("--cache-to", "type=inline,mode=max"), "mode=min"),
        (("--cache-from", "type=inline"), "type=registry,ref=IMAGE"),
        (("--cache-to", "type=local"), "dest=DIR"),
        (("--cache-to", "type=local,dest=c,mode=some"), "min, max"),
        (("--cache-to", "type=local,dest=c,compression=zstd"), "is none of"),
        (("--cache-from", "type=local,src=c,digest=sha256:../x"), "64 hex digits"),
        (("--cache-from", "Not A Name"), "names no image"),
        (("--cache-from", "type=s3,bucket=b"), "the type is one of"),
    ],
)
def test_an_option_that_is_not_there_is_a_clear_error(
    context: ContextMaker, option: tuple[str, str], why: str
) -> None:
    done = run("build", *option, str(context("FROM scratch\n")))
    assert done.returncode == 2
    assert why in done.stderr


def test_a_step_that_changes_but_times_or_hard_links_is_seen_by_what_follows(
    clusters: Clusters, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    cluster, other = clusters("cluster", workers=1), clusters("other", workers=1)
    cache = tmp_path / "cache"
    to = ("--cache-to", f"type=local,dest={cache},mode=max")

    def build(on: Cluster, between: str, *words: str) -> tuple[str, int]:
        """Return what is told of a file at the end, and how many steps ran."""
        text = "FROM base\nRUN echo a > /a && cp /a /b && touch -d @1000000000 /a\n"
        text += f"RUN {between}\nRUN echo other > /other\nRUN stat -c '%Y %h' /a > /seen\n"
        words = (*words, "--build-context", base, "-o", str(tmp_path / "out"))
        built = on.build(context(text), *words)
        return (tmp_path / "out/seen").read_text().strip(), len(ran(built))

    assert build(cluster, "true") == ("1000000000 1", 4)
    assert build(cluster, "mkdir /x && rmdir /x") == ("1000000000 1", 1), "a directory's time"
    assert build(cluster, "ln -f /a /b") == ("1000000000 2", 3)
    assert build(cluster, "touch -d @1100000000 /a", *to) == ("1100000000 1", 3)
    assert build(cluster, "touch -d @1100000000 /a /a") == ("1100000000 1", 1), "the same again"
    come = ("--cache-from", f"type=local,src={cache}")
    assert build(other, "true", *come) == ("1000000000 1", 3)
    assert build(other, "touch -d @1100000000 /a /a", *come) == ("1100000000 1", 1)
