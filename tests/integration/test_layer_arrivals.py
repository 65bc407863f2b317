"""Layers that are cut, killed, wanted twice, or given by somebody who lies."""

import asyncio
import io
import random
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from filesync.digest import digest_of
from filesync.errors import FilesyncError, PeerError, Unavailable
from filesync.manifest import Manifest, empty_manifest
from tests.integration.layer_pair import Side, take
from worker.layers import BadSkeleton, make_layer
from worker.layers.member import END, FILE, Member, encode, padding
from worker.layers.skeleton import Content, SkeletonWriter, read_skeleton
from worker.moving import chains, skeletons
from worker.moving.arrivals import Arrivals
from worker.moving.errors import ImageMalformed
from worker.store import Store
from worker.wire.orders import FromLayers, Layer, Link, RefInfo

BIG = random.Random(1).randbytes(60_000_000)
SMALL = {f"d/f{n}": random.Random(n).randbytes(40_000) for n in range(100)}
TOTAL = sum(map(len, SMALL.values()))
pytestmark = pytest.mark.needs("root")


async def without_blobs(side: Side, *refs: RefInfo) -> None:
    """Leave a giver nothing but the skeletons of its layers, as if it had them from another."""
    await side.service.close()  # an open offer holds what it offers
    for info in refs:
        layer = side.store.refs.get(info.ref).info.layer
        assert layer is not None
        assert side.store.blobs.remove(layer.digest)


def content_of(store: Store, info: RefInfo) -> dict[str, bytes]:
    held = store.refs.get(info.ref)
    with store.snapshots.view(held.snapshot) as view:
        return {
            str(path.relative_to(view.path)): path.read_bytes()
            for path in view.path.rglob("*")
            if path.is_file()
        }


# --- killed ---------------------------------------------------------------------------------------


async def test_a_taker_killed_in_the_middle_of_a_blob_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    async with Side(tmp_path / "giver") as giver:
        info = giver.commit({"big": BIG})
        order = giver.taking((info,), await giver.offer(info))
        killed = await take(tmp_path, giver, order, kill_at=40_000_000)
        assert killed.status == -9
        done = await take(tmp_path, giver, order)
        assert done.status == 0
        assert done.said["trees"] == [info.tree.hex()]
        assert 0 < done.said["content_bytes"] < 35_000_000
        assert order.chain[0].layer.digest in done.said["blobs"]
        assert done.said["arriving"] == []
        again = await take(tmp_path, giver, order)
        assert again.said["wire_bytes"] == 0


async def test_a_taker_killed_in_the_middle_of_the_parts_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    async with Side(tmp_path / "giver") as giver:
        info = giver.commit(SMALL | {"big": BIG})
        await giver.offer(info)
        await without_blobs(giver, info)
        order = giver.taking((info,), await giver.offer(info))
        killed = await take(tmp_path, giver, order, kill_at=TOTAL + 36_000_000)
        assert killed.status == -9
        done = await take(tmp_path, giver, order)
        assert done.said["trees"] == [info.tree.hex()]
        assert 0 < done.said["content_bytes"] < 45_000_000
        assert order.chain[0].layer.digest not in done.said["blobs"]
        assert done.said["arriving"] == []


# --- wanted twice ---------------------------------------------------------------------------------


async def test_two_orders_for_one_chain_fetch_it_once(tmp_path: Path) -> None:
    async with Side(tmp_path / "giver") as giver, Side(tmp_path / "taker") as taker:
        below = giver.commit(SMALL)
        above = giver.commit({"big": BIG[:5_000_000]}, below)
        order = giver.taking((below, above), await giver.offer(below, above))
        taker.learn(giver, order)
        both = await asyncio.gather(*(taker.arrivals.pull(order, lambda _: None) for _ in "12"))
        blobs = sum(link.layer.size for link in order.chain)
        assert sum(stats.content_bytes for stats, _ in both) == blobs
        assert sorted(info.tree for _, new in both for info in new) == sorted(
            (below.tree, above.tree)
        )
        assert content_of(taker.store, above) == SMALL | {"big": BIG[:5_000_000]}
        # Who took a layer counted its tar; who committed it reckons that from the manifests.
        assert {info.ref: info.tar_size for info in taker.store.refs.infos()} == {
            info.ref: info.tar_size for info in (below, above)
        }


async def test_who_waits_for_a_pull_that_is_cancelled_goes_on_with_it(tmp_path: Path) -> None:
    async with Side(tmp_path / "giver") as giver, Side(tmp_path / "taker") as taker:
        info = giver.commit({"big": BIG})
        order = giver.taking((info,), await giver.offer(info))
        taker.learn(giver, order)
        came = asyncio.Event()
        first = asyncio.create_task(taker.arrivals.pull(order, lambda _: came.set()))
        second = asyncio.create_task(taker.arrivals.pull(order, lambda _: None))
        await came.wait()
        first.cancel()
        stats, pulled = await second
        with pytest.raises(asyncio.CancelledError):
            await first
        assert [one.tree for one in pulled] == [info.tree]
        assert stats.content_bytes <= order.chain[0].layer.size


# --- given by several -----------------------------------------------------------------------------


async def test_a_giver_that_is_gone_is_made_up_for_by_another(tmp_path: Path) -> None:
    async with (
        Side(tmp_path / "one") as one,
        Side(tmp_path / "two") as two,
        Side(tmp_path / "taker") as taker,
    ):
        info = one.commit(SMALL)
        first = one.taking((info,), await one.offer(info))
        two.learn(one, first)
        await two.arrivals.pull(first, lambda _: None)
        offers = await one.offer(info), await two.offer(info)
        assert offers[0].tree == offers[1].tree  # the same blobs, the skeleton among them
        orders = [
            side.taking((info,), offer) for side, offer in zip((one, two), offers, strict=True)
        ]
        order = msgspec.structs.replace(
            orders[0], replicas=orders[0].replicas + orders[1].replicas
        )
        await one.service.close()
        taker.learn(one, order)
        _, pulled = await taker.arrivals.pull(order, lambda _: None)
        assert [ref.tree for ref in pulled] == [info.tree]


# --- liars ----------------------------------------------------------------------------------------


async def lied_to(tmp_path: Path, giver: Side, order: FromLayers) -> FilesyncError:
    """Have a fresh taker carry out an order; return its refusal. It keeps nothing."""
    async with Side(tmp_path / "taker") as taker:
        taker.learn(giver, order)
        with pytest.raises(FilesyncError) as refusal:
            await taker.arrivals.pull(order, lambda _: None)
        assert taker.store.refs.infos() == ()
        assert taker.store.snapshots.list() == []
        return refusal.value


def with_skeleton(giver: Side, order: FromLayers, data: bytes) -> FromLayers:
    """Return the order with another skeleton in place of the first link's, and no blob."""
    (link,) = order.chain
    assert link.parts is not None
    blob = giver.store.blobs.ingest([data])
    skeleton = msgspec.structs.replace(link.parts.skeleton, digest=blob.digest, size=blob.size)
    skeletons.remember(giver.store, link.layer, skeleton)
    return order


async def forged(giver: Side, info: RefInfo, data: bytes) -> FromLayers:
    """Return the order to take a layer of which there is a skeleton of these bytes alone."""
    order = giver.taking((info,), await giver.offer(info))
    with_skeleton(giver, order, data)
    await without_blobs(giver, info)
    return giver.taking((info,), await giver.offer(info))


def rewritten(giver: Side, layer: Layer, change: dict[bytes, bytes]) -> bytes:
    """Return a layer's skeleton with its literals changed."""
    skeleton = skeletons.find(giver.store, layer)
    assert skeleton is not None
    out = io.BytesIO()
    writer = SkeletonWriter(out.write)
    with giver.store.blobs.open(skeleton.digest) as stream:
        for part in read_skeleton(stream):
            if isinstance(part, Content):
                writer.content(*part)
                continue
            for old, new in change.items():
                part = part.replace(old, new)
            writer.literal(part)
    writer.finish()
    return out.getvalue()


async def test_a_skeleton_that_is_none_is_refused(tmp_path: Path) -> None:
    async with Side(tmp_path / "giver") as giver:
        info = giver.commit(SMALL)
        order = await forged(giver, info, b"no skeleton")
        assert isinstance(await lied_to(tmp_path, giver, order), BadSkeleton)


async def test_a_skeleton_of_another_tar_is_refused_by_the_diff_id(tmp_path: Path) -> None:
    async with Side(tmp_path / "giver") as giver:
        info = giver.commit(SMALL)
        (layer,) = (await giver.offer(info)).layers
        data = rewritten(giver, layer, {END: END + bytes(512)})
        order = await forged(giver, info, data)
        refusal = await lied_to(tmp_path, giver, order)
        assert isinstance(refusal, ImageMalformed)
        assert "diffID" in str(refusal)


async def test_a_skeleton_that_leads_out_of_the_root_is_refused(tmp_path: Path) -> None:
    async with Side(tmp_path / "giver") as giver:
        info = giver.commit(SMALL)
        out = io.BytesIO()
        writer = SkeletonWriter(out.write)
        name, data = next(iter(SMALL.items()))
        writer.literal(encode(Member(b"../" + name.encode(), FILE, 0o644, size=len(data))))
        writer.content(digest_of(data), len(data))
        writer.literal(bytes(padding(len(data))) + END)
        writer.finish()
        order = await forged(giver, info, out.getvalue())
        refusal = await lied_to(tmp_path, giver, order)
        assert isinstance(refusal, PeerError)
        assert "leads out" in str(refusal)
        assert not (tmp_path / "taker" / "d").exists()


async def test_a_skeleton_that_wants_what_is_not_on_offer_is_refused(tmp_path: Path) -> None:
    async with Side(tmp_path / "giver") as giver:
        info = giver.commit(SMALL)
        out = io.BytesIO()
        writer = SkeletonWriter(out.write)
        writer.content(digest_of(b"nowhere"), 7)
        writer.finish()
        order = await forged(giver, info, out.getvalue())
        refusal = await lied_to(tmp_path, giver, order)
        assert isinstance(refusal, PeerError | Unavailable)
        assert "not in the tree on offer" in str(refusal)


async def test_where_a_skeleton_is_wrong_and_the_blob_is_on_offer_the_blob_comes(
    tmp_path: Path,
) -> None:
    async with Side(tmp_path / "giver") as giver, Side(tmp_path / "taker") as taker:
        info = giver.commit(SMALL)
        taker.commit({f"x{name.replace('/', '-')}": data for name, data in SMALL.items()})
        order = giver.taking((info,), await giver.offer(info))
        with_skeleton(giver, order, b"no skeleton")
        order = giver.taking((info,), await giver.offer(info))
        taker.learn(giver, order)
        _, pulled = await taker.arrivals.pull(order, lambda _: None)
        assert [one.tree for one in pulled] == [info.tree]
        assert order.chain[0].layer.digest in taker.store.blobs


async def test_a_ref_that_its_layer_does_not_make_is_refused(tmp_path: Path) -> None:
    async with Side(tmp_path / "giver") as giver:
        info, other = giver.commit(SMALL), giver.commit({"other": b"x"})
        order = giver.taking((info,), await giver.offer(info))
        (link,) = order.chain
        told = msgspec.structs.replace(link.ref, tree=other.tree)
        lie = msgspec.structs.replace(order, chain=(Link(told, link.layer, link.parts),))
        refusal = await lied_to(tmp_path, giver, lie)
        assert "does not give the tree" in str(refusal)


# --- what is here rots ----------------------------------------------------------------------------


async def test_what_has_rotted_here_is_fetched(tmp_path: Path) -> None:
    async with Side(tmp_path / "giver") as giver, Side(tmp_path / "taker") as taker:
        info = giver.commit(SMALL)
        near = taker.commit({name.replace("/", "-"): data for name, data in SMALL.items()})
        held = taker.store.refs.get(near.ref)
        with taker.store.snapshots.view(held.snapshot) as view:
            for number in range(3):
                path = view.path / f"d-f{number}"
                path.write_bytes(bytes(path.stat().st_size))
        order = giver.taking((info,), await giver.offer(info))
        taker.learn(giver, order)
        stats, pulled = await taker.arrivals.pull(order, lambda _: None)
        assert [one.tree for one in pulled] == [info.tree]
        assert content_of(taker.store, info) == SMALL
        assert Manifest(info.tree, taker.store.nodes).summary.size == TOTAL
        assert stats.content_bytes >= 3 * 40_000


# --- long chains ----------------------------------------------------------------------------------


async def test_a_chain_of_thousands_of_layers_that_nobody_wants_any_more_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain: list[Link] = []
    for number in range(2000):
        ref = digest_of(b"%d" % number)
        info = RefInfo(ref, ref, chain[-1].ref.ref if chain else None)
        layer = Layer("a tar", f"sha256:{ref.hex()}", 1, f"sha256:{ref.hex()}")
        chain.append(Link(info, layer))
    all_wait = asyncio.Event()

    async def fetch(self: object, link: Link, *_: object) -> object:
        if link is chain[0]:
            await asyncio.Event().wait()
        if link is chain[-1]:
            all_wait.set()
        return lambda: None

    monkeypatch.setattr(Arrivals, "_fetch", fetch)
    async with Side(tmp_path / "taker") as taker:
        order = FromLayers(tuple(chain), empty_manifest(taker.store.nodes).tree, ())
        pulling = asyncio.create_task(Arrivals(taker.store, taker.plane).pull(order, print))
        async with asyncio.timeout(20):
            await all_wait.wait()
        await asyncio.sleep(0)
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling


async def test_a_layer_that_many_workers_ask_for_at_once_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Mock(wraps=make_layer)
    monkeypatch.setattr(chains, "make_layer", counted)
    async with Side(tmp_path / "giver") as giver:
        below = giver.commit({"a": bytes(2 << 20)})
        above = giver.commit({"b": bytes(2 << 20)}, below)
        offers = await asyncio.gather(
            *(giver.offer(below, above) for _ in range(6)),
            *(giver.offer(below) for _ in range(6)),
        )
    assert counted.call_count == 2
    assert {offer.layers[0] for offer in offers} == {offers[0].layers[0]}
