"""What ``make soak`` syncs again and again comes out right, with nobody in trouble."""

import random
from pathlib import Path

from tests.soak.left import left
from tests.soak.servers import Relay, Server
from tests.soak.syncs import Place, Round
from tests.soak.trees import Tree


def test_a_round_in_peace_is_right_and_what_is_not_is_found(tmp_path: Path) -> None:
    place, tree = Place(tmp_path), Tree(tmp_path / "src0", random.Random(1))
    with Server(place.served, place.log, place.env) as server, Relay(server.address) as relay:
        one = Round(place, [tree], server, relay, 1)
        one.peace()
        assert one.wrong == []
        (place.served / "d0/d1/f1").write_bytes(b"mixed")
        one._check_contents("d0", place.served / "d0", tree.history)
        one._check_same("d0", tree.root, place.served / "d0")
        assert one.wrong[0] == "d0: neither old nor new: d1/f1"
        assert one.wrong[1].startswith("d0: d1/f1: ")
        assert one.wrong[-1] == "d0: the manifests differ"
    assert left(tmp_path) == []
