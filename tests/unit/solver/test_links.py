"""What a worker is told of layers, from what their holders offer."""

from solver.manager.moving.links import blob_replicas, links_of
from solver.manager.workers import WorkerLink
from tests.unit.solver.fakes import FakeWorker, World, digest
from worker.wire.orders import Layer, Offered, OfferedParts, RefInfo

LAYER = Layer("layer", "sha256:" + "a" * 64, 1000, "sha256:" + "b" * 64)
SKELETON = Layer("skeleton", "sha256:" + "c" * 64, 10, "sha256:" + "b" * 64)
OTHER = Layer("skeleton", "sha256:" + "d" * 64, 11, "sha256:" + "b" * 64)
INFO = RefInfo(digest("ref"), digest("tree"), keys=(digest("key"),), tar_size=5)


def token(number: int) -> bytes:
    return number.to_bytes(16, "big")


def offer(
    worker: FakeWorker, number: int, tree: str, skeleton: Layer | None
) -> tuple[WorkerLink, Offered]:
    parts = None if skeleton is None else OfferedParts(skeleton, token(number + 1))
    return worker.link, Offered(token(number), digest(tree), (LAYER,), parts=(parts,))


def test_contents_come_from_all_who_have_them_and_the_skeleton_from_the_first(
    world: World,
) -> None:
    one, two, three = (world.worker(name) for name in ("a", "b", "c"))
    offers = [
        offer(one, 10, "blobs", SKELETON),
        offer(two, 20, "others", OTHER),
        offer(three, 30, "blobs", None),
    ]
    (link,) = links_of([INFO], offers)
    assert link.layer == link.ref.layer == LAYER
    assert link.ref.keys == ()
    assert link.parts is not None
    assert link.parts.skeleton == SKELETON
    assert [(one.worker, one.token) for one in link.parts.replicas] == [
        ("a", token(11)),
        ("b", token(21)),
    ]
    assert [(one.worker, one.token) for one in blob_replicas(offers)] == [
        ("a", token(10)),
        ("c", token(30)),
    ]


def test_a_layer_of_which_the_first_has_no_skeleton_comes_as_its_blob(world: World) -> None:
    one, two = world.worker("a"), world.worker("b")
    (link,) = links_of(
        [INFO], [offer(one, 10, "blobs", None), offer(two, 20, "blobs", SKELETON)]
    )
    assert link.parts is None


def test_who_says_nothing_of_parts_gives_blobs(world: World) -> None:
    offered = Offered(token(1), digest("blobs"), (LAYER,))
    (link,) = links_of([INFO], [(world.worker("a").link, offered)])
    assert link.parts is None
