"""The solver's operations on cached results, with a manager in this process and real workers."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from bench.processes import BuildRun, Cluster, run
from filesync.digest import Digest
from filesync.errors import FilesyncError, Unavailable, UsageError
from filesync.trees.select import Pick, Selector
from solver.manager.process import open_manager
from solver.manager.results import replicas as replicas_module
from solver.manager.results.replicas import Replicas, WorkerRef
from solver.manager.workers import OnEvent, WorkerLink
from worker.wire.caches import cache_manifest
from worker.wire.orders import Layer, OrderBody, Result

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs("root")

TEXT = """
FROM scratch AS tools
COPY big /big
COPY docs /docs
FROM scratch
COPY --from=tools /docs/one /one
"""
BIG = bytes(range(256)) * 20_000
MOUNTS = Path("/proc/self/mountinfo")
FILES: dict[str, str | bytes] = {"big": BIG, "docs__one": "1\n", "docs__two": "2\n"}


@dataclass
class Place:
    """A manager here, workers beside it, and what was built on the first of them."""

    cluster: Cluster
    replicas: Replicas
    built: BuildRun

    def key(self, step: str) -> Digest:
        return Digest(bytes.fromhex(self.built.step(step)["key"]))

    async def build(self, root: Path, *arguments: str) -> BuildRun:
        return await asyncio.to_thread(self.cluster.build, root, *arguments)

    async def start(self, name: str) -> None:
        await asyncio.to_thread(self.cluster.start_worker, name)
        self.cluster.names = sorted({*self.cluster.names, name})
        await asyncio.to_thread(self.cluster.wait_for_workers)

    def blobs(self, worker: str) -> dict[str, tuple[int, int]]:
        """Return a worker's blobs, each with what would change if it were written again."""
        directory = self.cluster.root / worker / "blobs/blobs/sha256"
        stats = {path.name: path.stat() for path in directory.iterdir()}
        return {name: (one.st_ino, one.st_mtime_ns) for name, one in stats.items()}

    def blob(self, worker: str, digest: str) -> bytes:
        directory = self.cluster.root / worker / "blobs/blobs/sha256"
        data = (directory / digest.removeprefix("sha256:")).read_bytes()
        assert digest == f"sha256:{sha256(data).hexdigest()}"
        return data


@asynccontextmanager
async def place(tmp_path: Path, root: Path) -> AsyncIterator[Place]:
    """Build on w1; then start w2, which has nothing."""
    async with open_manager("tcp://127.0.0.1:0", tmp_path / "manager") as manager:
        cluster = Cluster(tmp_path / "cluster", workers=0)
        cluster.root.mkdir()
        cluster.manager = manager.address
        try:
            await asyncio.to_thread(cluster.start_worker, "w1")
            cluster.names = ["w1"]
            built = await asyncio.to_thread(cluster.build, root, "--target", "tools")
            built = await asyncio.to_thread(cluster.build, root)
            made = Place(cluster, manager.replicas, built)
            await made.start("w2")
            yield made
        finally:
            # What was killed unmounts what it held when it comes back.
            for name in set(cluster.names) - set(cluster.processes):
                await asyncio.to_thread(cluster.start_worker, name)
            await asyncio.to_thread(cluster.stop)
    assert str(tmp_path) not in await asyncio.to_thread(MOUNTS.read_text)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The orders that workers are given: (worker, kind)."""
    orders: list[tuple[str, str]] = []
    call = WorkerLink.call

    async def noted(
        link: WorkerLink, body: OrderBody, on_event: OnEvent | None = None
    ) -> Result:
        orders.append((link.name, type(body).__name__))
        return await call(link, body, on_event)

    monkeypatch.setattr(WorkerLink, "call", noted)
    return orders


async def prune(there: Place) -> None:
    done = await asyncio.to_thread(run, "prune", "--manager", there.cluster.manager)
    assert done.returncode == 0, done.stderr


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, while the others go on."""
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110  # nobody tells of it
            await asyncio.sleep(0)


async def held(replicas: Replicas, worker: str, key: Digest) -> WorkerRef:
    found = await replicas.has_cache(worker, key)
    assert found is not None
    return found


# --- who has it -------------------------------------------------------------------------------


async def test_who_has_a_result_is_known_without_asking_and_told_by_asking(
    tmp_path: Path, context: ContextMaker, asked: list[tuple[str, str]]
) -> None:
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        key = there.key("COPY --from=tools")
        asked.clear()
        assert there.replicas.find_workers_with_cache(key) == ["w1"]
        assert there.replicas.find_workers_with_cache(Digest(bytes(32))) == []
        assert asked == []
        ref = await held(there.replicas, "w1", key)
        assert (ref.worker, str(ref.ref.hex())) == ("w1", ref.ref.hex())
        assert await there.replicas.has_cache("w2", key) is None
        assert await there.replicas.has_cache("w1", Digest(bytes(32))) is None
        with pytest.raises(UsageError, match="connected: w1, w2"):
            await there.replicas.has_cache("w9", key)


async def test_what_is_held_is_not_pruned_until_it_is_released(
    tmp_path: Path, context: ContextMaker
) -> None:
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        key, other = there.key("COPY docs"), there.key("COPY --from=tools")
        ref = await held(there.replicas, "w1", key)
        await prune(there)
        assert await there.replicas.has_cache("w1", other) is None
        again = await held(there.replicas, "w1", key)
        assert again.ref == ref.ref
        await again.release()
        await prune(there)
        assert there.replicas.find_workers_with_cache(key) in ([], ["w1"])
        assert (await held(there.replicas, "w1", key)).ref == ref.ref
        # A value of three fields, which may have come from elsewhere, is enough to let go.
        await there.replicas.worker_ref(ref.worker, ref.ref, ref.lease).release()
        await ref.release()
        for lease in list(there.replicas.leases):
            await there.replicas.end_lease("w1", lease)
        await prune(there)
        assert await there.replicas.has_cache("w1", key) is None
        assert there.replicas.find_workers_with_cache(key) == []


async def test_a_stale_announcement_costs_one_question_and_is_then_corrected(
    tmp_path: Path, context: ContextMaker
) -> None:
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        key = there.key("COPY --from=tools")
        link = there.replicas.shared.cluster.named("w2")
        info = there.replicas.shared.records.find(key)[0]
        assert link is not None
        there.replicas.shared.cluster.add_ref(link, info)
        assert set(there.replicas.find_workers_with_cache(key)) == {"w1", "w2"}
        assert await there.replicas.has_cache("w2", key) is None
        assert there.replicas.find_workers_with_cache(key) == ["w1"]


# --- what tells of it -------------------------------------------------------------------------


async def test_a_checksum_is_of_contents_and_crosses_no_file(
    tmp_path: Path, context: ContextMaker, asked: list[tuple[str, str]]
) -> None:
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        whole = await held(there.replicas, "w1", there.key("COPY docs"))
        taken = await held(there.replicas, "w1", there.key("COPY --from=tools"))
        one = Selector((Pick("docs/one"),))
        before = await whole.checksum(one)
        assert before != await whole.checksum(Selector((Pick("docs/two"),)))
        assert before != await whole.checksum()
        assert await taken.checksum() != await whole.checksum()
        with pytest.raises(FilesyncError, match="gone"):
            await whole.checksum(Selector((Pick("docs/gone"),)))
        # The same contents with other times, in another result, have the same digest.
        (root / "docs/one").write_text("1\n")
        (root / "docs/two").write_text("another\n")
        rebuilt = await there.build(root, "--target", "tools")
        key = Digest(bytes.fromhex(rebuilt.step("COPY docs")["key"]))
        (worker,) = there.replicas.find_workers_with_cache(key)
        other = await held(there.replicas, worker, key)
        assert other.ref != whole.ref
        assert await other.checksum(one) == before
        assert "Offer" not in [kind for _, kind in asked[-3:]]


async def test_a_trimmed_result_has_a_key_that_leads_to_nothing_else(
    tmp_path: Path, context: ContextMaker
) -> None:
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        key = there.key("COPY docs")
        trimmed = await there.replicas.trim_cache("w1", key, ["docs/one"])
        assert trimmed.key != key
        assert trimmed.tree.summary.size == 2
        again = await there.replicas.trim_cache("w1", key, ["docs/one"])
        assert again.key not in (key, trimmed.key)
        assert again.tree.tree == trimmed.tree.tree
        ref = await held(there.replicas, "w1", key)
        assert ref.ref not in (trimmed.key, again.key)
        assert await there.replicas.has_cache("w1", trimmed.key) is None
        assert there.replicas.find_workers_with_cache(trimmed.key) == []
        stranger = there.replicas.worker_ref("w1", trimmed.key, trimmed.lease)
        with pytest.raises(FilesyncError):
            await stranger.transfer()
        sources = there.cluster.root / "w1" / "sources"
        trees = [path.parent.parent for path in sources.rglob("docs/one")]
        alone = [tree for tree in trees if not (tree / "docs/two").exists()]
        assert len(alone) == 2
        assert [sorted(path.name for path in tree.iterdir()) for tree in alone] == [
            ["docs"]
        ] * 2
        with pytest.raises(FilesyncError, match="docs/gone"):
            await there.replicas.trim_cache("w1", key, ["docs/gone"])
        for one in (trimmed, again):
            await one.release()
            await one.release()


async def test_layers_are_populated_once_and_the_config_is_a_cache(
    tmp_path: Path, context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        replicas = there.replicas
        key = there.key("COPY docs")
        before = there.blobs("w1")
        digest = await replicas.populate_cache_layers("w1", key)
        made = there.blobs("w1")
        assert len(made) > len(before)
        assert await replicas.populate_cache_layers("w1", key) == digest
        assert there.blobs("w1") == made
        config = json.loads(there.blob("w1", digest))
        ref = await held(replicas, "w1", key)
        transfer = await ref.transfer()
        assert transfer == await ref.transfer()
        layers = [one.layer for one in transfer.target.chain()]
        assert {one["blob"] for one in config["layers"]} == {one.digest for one in layers}
        # On another worker the same result has the same config, byte for byte.
        await replicas.worker("w2").pull(transfer)
        assert await replicas.populate_cache_layers("w2", key) == digest
        assert await replicas.populate_cache_layers("w1", key) == digest
        with pytest.raises(Unavailable, match="w2 does not hold"):
            await replicas.populate_cache_layers("w2", there.key("COPY --from=tools"))
        cache = write_layout(tmp_path / "cache", there, digest, layers)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    with Cluster(tmp_path / "fresh", workers=1) as fresh:
        again = fresh.build(
            root, "--target", "tools", "--cache-from", f"type=local,src={cache}"
        )
    assert again.step("COPY docs")["cached"]
    assert again.metadata["filesync"]["totals"]["steps_run"] == 0


def write_layout(layout: Path, there: Place, config: str, layers: list[Layer]) -> Path:
    """Put a populated config and its layers into a directory, as --cache-from takes it."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    text = there.blob("w1", config)
    manifest = cache_manifest(text, layers, image=True)
    for data in (text, manifest, *(there.blob("w1", one.digest) for one in layers)):
        (blobs / sha256(data).hexdigest()).write_bytes(data)
    entry = {
        "digest": f"sha256:{sha256(manifest).hexdigest()}",
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    (layout / "index.json").write_text(json.dumps({"manifests": [entry]}))
    return layout


# --- moving -----------------------------------------------------------------------------------


async def test_a_replica_is_equal_answers_for_itself_and_exports_the_same_bytes(
    tmp_path: Path, context: ContextMaker
) -> None:
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        replicas, name = there.replicas, "registry.example/app:1"
        layouts = [tmp_path / name for name in ("before", "after")]
        options = [("-t", name, "-o", f"type=oci,tar=false,dest={one}") for one in layouts]
        first = await there.build(root, "--target", "tools", *options[0])
        key = there.key("COPY docs")
        ref = await held(replicas, "w1", key)
        copy = await replicas.worker("w2").pull(await ref.transfer())
        assert (copy.worker, copy.ref) == ("w2", ref.ref)
        assert copy.lease != ref.lease
        assert await copy.checksum() == await ref.checksum()
        assert set(replicas.find_workers_with_cache(key)) == {"w1", "w2"}
        # It needs nobody who knows which key has what: its own word is enough.
        replicas.shared.records.forget([ref.ref])
        assert (await held(replicas, "w2", key)).ref == ref.ref
        there.cluster.stop_one("w1")
        await until(lambda: replicas.shared.cluster.named("w1") is None)
        again = await there.build(root, "--target", "tools", *options[1])
        assert again.totals["steps_run"] == 0
        digests = [run.metadata["containerimage.digest"] for run in (first, again)]
        assert digests[0] == digests[1]
        for path in (layouts[0] / "blobs/sha256").iterdir():
            assert (layouts[1] / "blobs/sha256" / path.name).read_bytes() == path.read_bytes()


async def test_a_second_pull_moves_nothing_and_two_at_once_are_one(
    tmp_path: Path, context: ContextMaker, asked: list[tuple[str, str]]
) -> None:
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        replicas = there.replicas
        ref = await held(replicas, "w1", there.key("COPY docs"))
        transfer = await ref.transfer()
        expected = sum(one.layer.size for one in transfer.target.chain())
        assert await replicas.bytes_to_pull("w2", ref) == expected
        asked.clear()
        target = replicas.worker("w2")
        copies = await asyncio.gather(*(target.pull(transfer) for _ in range(4)))
        assert len({copy.lease for copy in copies}) == 4
        assert asked.count(("w2", "Pull")) == 1
        assert asked.count(("w1", "OfferLayers")) == 1
        assert await replicas.bytes_to_pull("w2", ref) == 0
        asked.clear()
        await target.pull(transfer)
        assert [kind for name, kind in asked if name == "w1"] == []
        # Only what is lacking comes: the lower layer is there already.
        lower = transfer.target.parent
        assert lower is not None
        asked.clear()
        await replicas.worker("w1").pull(transfer)
        assert ("w2", "OfferLayers") not in asked


async def test_a_pull_that_is_cancelled_leaves_the_worker_ready_for_the_next(
    tmp_path: Path, context: ContextMaker
) -> None:
    root = context(TEXT, **{**FILES, "big": BIG * 20})
    async with place(tmp_path, root) as there:
        replicas = there.replicas
        ref = await held(replicas, "w1", there.key("COPY docs"))
        transfer = await ref.transfer()
        pulling = asyncio.create_task(replicas.worker("w2").pull(transfer))
        await asyncio.sleep(0.05)
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
        copy = await replicas.worker("w2").pull(transfer)
        assert await copy.checksum() == await ref.checksum()


async def test_one_who_waits_for_a_pull_gets_it_though_the_first_gives_up(
    tmp_path: Path, context: ContextMaker, asked: list[tuple[str, str]]
) -> None:
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        ref = await held(there.replicas, "w1", there.key("COPY docs"))
        transfer = await ref.transfer()
        target = there.replicas.worker("w2")
        first, second = (asyncio.create_task(target.pull(transfer)) for _ in range(2))
        await until(lambda: ("w2", "AskLacking") in asked)
        first.cancel()
        copy = await second
        assert copy.ref == ref.ref
        assert asked.count(("w2", "Pull")) == 1


async def test_another_holder_gives_what_the_first_cannot(
    tmp_path: Path, context: ContextMaker
) -> None:
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        replicas = there.replicas
        ref = await held(replicas, "w1", there.key("COPY docs"))
        transfer = await ref.transfer()
        await replicas.worker("w2").pull(transfer)
        await there.start("w3")
        there.cluster.kill("w1")
        # w1 may still be thought to be there; its word is what the transfer speaks of.
        copy = await replicas.worker("w3").pull(transfer)
        assert copy.ref == ref.ref


async def test_what_a_manager_held_that_does_not_renew_it_is_free_again(
    tmp_path: Path, context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas_module, "LEASE_S", 1.0)
    root = context(TEXT, **FILES)
    async with place(tmp_path, root) as there:
        key = there.key("COPY docs")
        ref = await held(there.replicas, "w1", key)
        async with asyncio.timeout(30):
            while await there.replicas.has_cache("w1", key) is not None:
                await asyncio.sleep(2.5)
                await prune(there)
        await ref.release()


# --- transfer-cache ---------------------------------------------------------------------------


def transfer(cluster: Cluster, *arguments: str) -> tuple[int, str]:
    done = run("transfer-cache", "--manager", cluster.manager, *arguments)
    return done.returncode, done.stdout + done.stderr


def test_a_result_is_moved_by_the_key_that_a_build_explains(
    cluster: Cluster, context: ContextMaker
) -> None:
    root = context(TEXT, **FILES)
    built = cluster.build(root, "--explain", "--target", "tools")
    step = built.step("COPY docs")
    (line,) = [
        line
        for line in built.stderr.splitlines()
        if line.startswith("key ") and "COPY docs" in line
    ]
    key = line.split()[1]
    assert step["key"].startswith(key)
    source = step["worker"]
    target = "w2" if source == "w1" else "w1"
    status, told = transfer(cluster, "--dry-run", key, source, target)
    assert status == 0
    at_most = int(told.split(": ")[1].split()[0])
    assert 0 < at_most <= 2 * len(BIG)
    # A dry run moves nothing: it would be the same again.
    assert transfer(cluster, "-n", key, source, target) == (status, told)
    status, told = transfer(cluster, step["key"], source, target)
    assert status == 0
    assert 0 < int(told.split(": ")[1].split()[0]) <= at_most
    assert f"from {source} to {target}" in told
    assert "nothing to move" in transfer(cluster, key, source, target)[1]
    # What was moved is a result there like any other.
    cluster.stop_one(source)
    again = cluster.build(root, "--target", "tools")
    assert (again.step("COPY docs")["cached"], again.totals["steps_run"]) == (True, 0)
    cluster.start_worker(source)


def test_a_move_shows_how_far_it_has_come(cluster: Cluster, context: ContextMaker) -> None:
    root = context("FROM scratch\nCOPY big /\n", big=random.Random(9).randbytes(30_000_000))
    step = cluster.build(root).step("COPY big")
    key, source = step["key"], step["worker"]
    target = "w2" if source == "w1" else "w1"
    command = ("transfer-cache", "--manager", cluster.manager, "--progress", "json")
    dry = run(*command, "-n", key, source, target)
    assert [json.loads(line)["event"] for line in dry.stderr.splitlines()] == ["begin"]
    done = run(*command, key, source, target)
    assert "moved from" in done.stdout
    _, first, *events = [json.loads(line) for line in done.stderr.splitlines()]
    assert (first["source"], first["target"], first["done_bytes"]) == (source, target, 0)
    assert {event["event"] for event in (first, *events)} == {"transfer-progress"}
    come = [event["done_bytes"] for event in events]
    assert come == sorted(come)
    assert 0 < come[-1] <= events[-1]["total_bytes"]
    # What is expected is the tar: compressed, what cannot be has 3 bytes more for each 128 KiB.
    assert 30_000_000 <= events[-1]["total_bytes"] <= first["total_bytes"] + 1000


def test_a_move_says_on_no_terminal_just_what_it_is_about_to_do(
    cluster: Cluster, context: ContextMaker
) -> None:
    step = cluster.build(context("FROM scratch\nCOPY docs /docs\n", **FILES)).step("COPY docs")
    key, source = step["key"], step["worker"]
    target = "w2" if source == "w1" else "w1"
    done = run("transfer-cache", "--manager", cluster.manager, key, source, target)
    assert done.stderr == f"moving {key[:16]} to {target} from {source}\n"
    command = ("transfer-cache", "--manager", cluster.manager, "--progress", "quiet")
    assert run(*command, key, source, target).stderr == ""


def test_what_cannot_be_moved_says_what_to_do(cluster: Cluster, context: ContextMaker) -> None:
    root = context("FROM scratch\nCOPY docs /docs\n", **FILES)
    step = cluster.build(root).step("COPY docs")
    key, source = step["key"], step["worker"]
    other = "w2" if source == "w1" else "w1"

    def refused(why: str, *arguments: str) -> None:
        status, told = transfer(cluster, *arguments)
        assert status != 0
        assert why in told
        assert "Traceback" not in told

    refused("8 digits of it at least", "xyz", source, other)
    refused("name another worker", key, source, source)
    refused("connected: w1, w2", key, source, "w9")
    refused("connected: w1, w2", key, "w9", source)
    refused("filesync build --explain", "0" * 16, source, other)
    refused(f"{source} should: name it instead", key, other, source)
    manual = run("transfer-cache", "--help").stdout
    assert "filesync transfer-cache -n" in manual
