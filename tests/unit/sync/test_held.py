"""What a connection holds is let go of once, when nobody uses it any more, whatever happens in which order."""

import os
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from filesync.errors import StoreError, UnexpectedMessage
from filesync.sync.filter import Filter
from filesync.sync.part import Part
from filesync.sync.places import LocalPlaces, Place
from filesync.sync.remote.held import Held, Stage
from filesync.sync.target import find_target


class WatchedPlace(Place):
    """A place that counts how often it is closed."""

    def __init__(self) -> None:
        super().__init__(-1, Path("/"), names=None, label=b"/")
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class HeldMachine(RuleBasedStateMachine):
    """One held place, a task that uses it now and then, and a connection that may be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.place = WatchedPlace()
        self.is_used = self.is_closed = False
        self.held = Held(self.place, Part(), Filter([]), None)

    @rule(stage=st.sampled_from([Stage.NEW, Stage.SCANNED]))
    def use(self, stage: Stage) -> None:
        use = self.held.used(stage)
        if self.held.stage is stage:
            use.__enter__()
            self.using, self.stage_before = use, stage
            self.is_used = True
        else:
            with pytest.raises(UnexpectedMessage):
                use.__enter__()

    @precondition(lambda self: self.is_used)
    @rule(error=st.sampled_from([None, StoreError("the disk")]))
    def leave(self, error: StoreError | None) -> None:
        self.using.__exit__(type(error) if error else None, error, None)
        self.is_used = False
        if not self.is_closed:
            assert self.held.stage is (self.stage_before if error else Stage.SCANNED)

    @rule()
    def close(self) -> None:
        self.held.close()
        self.is_closed = True

    @rule()
    def ask_for_nodes(self) -> None:
        if self.held.stage is Stage.SCANNED:
            assert self.held.scanned() is self.held.manifest
        else:
            with pytest.raises(UnexpectedMessage):
                self.held.scanned()

    @invariant()
    def it_is_let_go_of_once_and_never_under_a_users_hands(self) -> None:
        expected = int(self.is_closed and not self.is_used)
        assert self.place.closed == expected
        assert (self.held.stage is Stage.CLOSED) is self.is_closed


TestHeld = HeldMachine.TestCase


def test_a_directory_has_one_writer_under_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")

    def found(name: str) -> Place:
        path = os.fsencode(tmp_path / name)
        target = find_target(LocalPlaces(), path, part=Part(), dry_run=False)
        assert target is not None
        return target.place

    one = found("d")
    with pytest.raises(StoreError, match="someone else"):
        found("link")
    one.close()
    found("link").close()
