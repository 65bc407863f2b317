"""What is held, and which blob has its last copy where."""

from filesync.digest import Digest, digest_of
from solver.manager.leases import Leases
from solver.manager.results.lastcopies import Holder, holds_of
from worker.wire.disk import Holdings, Holds


def ref(name: str) -> Digest:
    return digest_of(name.encode())


def sha(name: str) -> str:
    return "sha256:" + digest_of(name.encode()).hex()


def test_a_lease_ends_with_its_holder_or_its_time() -> None:
    leases = Leases()
    leases.hold(b"build", [ref("a")])
    leases.hold(b"seed", [ref("b"), ref("a")], until_s=10.0)
    assert leases.held(9.9) == {ref("a"), ref("b")}
    assert leases.held(10.0) == {ref("a")}
    assert leases.release(b"build") == {ref("a")}
    assert leases.release(b"build") == frozenset()
    assert leases.held(0.0) == frozenset()


def test_a_lease_that_is_renewed_holds_what_it_held_for_longer() -> None:
    leases = Leases()
    leases.hold(b"seed", [ref("a")], until_s=10.0)
    leases.hold(b"seed", [ref("b")], until_s=20.0)
    assert leases.held(15.0) == {ref("a"), ref("b")}


def holder(*blobs: str, refs: tuple[str, ...] = (), **made: str) -> Holder:
    layers = tuple((ref(name), sha(layer)) for name, layer in made.items())
    return Holder(Holdings(tuple(map(sha, blobs)), layers), frozenset(map(ref, refs)))


def test_a_blob_goes_where_another_worker_has_it() -> None:
    holders = {
        "w1": holder("layer", refs=("r",), r="layer"),
        "w2": holder("layer", refs=("r",), r="layer"),
    }
    assert holds_of("w1", holders, []) == Holds(copied=(sha("layer"),))


def test_a_blob_goes_where_its_result_goes_too() -> None:
    holders = {"w1": holder("layer", refs=("r",), r="layer"), "w2": holder()}
    assert holds_of("w1", holders, []) == Holds()


def test_the_last_copy_stays_while_its_result_lives_on_another_worker() -> None:
    holders = {
        "w1": holder("layer", refs=("r",), r="layer"),
        "w2": holder(refs=("r",), r="layer"),
    }
    assert holds_of("w1", holders, []) == Holds(last_copies=(sha("layer"),))
    # And so it does once the result is gone from here.
    holders["w1"] = holder("layer")
    assert holds_of("w1", holders, []) == Holds(last_copies=(sha("layer"),))


def test_a_result_whose_holder_does_not_know_of_its_layer_keeps_it_all_the_same() -> None:
    holders = {"w1": holder("layer", refs=("r",), r="layer"), "w2": holder(refs=("r",))}
    assert holds_of("w1", holders, []).last_copies == (sha("layer"),)


def test_another_form_of_a_layer_that_was_pushed_is_kept_like_the_layer() -> None:
    pushed = Holdings(
        (sha("layer"), sha("gzip")), ((ref("r"), sha("layer")),), ((sha("layer"), sha("gzip")),)
    )
    holders = {
        "w1": Holder(pushed, frozenset([ref("r")])),
        "w2": holder("layer", refs=("r",), r="layer"),
    }
    assert holds_of("w1", holders, []) == Holds(
        last_copies=(sha("gzip"),), copied=(sha("layer"),)
    )


def test_what_builds_hold_is_told_in_one_order() -> None:
    held = [ref("b"), ref("a")]
    assert holds_of("w1", {"w1": holder()}, held).refs == tuple(sorted(held))
