"""What a manager tells a client of its build while that runs.

The messages are part of ``solver.wire``, and the rules for changing them are its.
"""

import msgspec

from solver.caches.wire import TransferProgress
from worker.wire.images import Count, Names
from worker.wire.ops import Text
from worker.wire.orders import Mode


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class StepStarted(_Message, frozen=True, tag="step-started"):
    """A step runs on a worker now (it may be said again when that worker is lost).

    Attributes:
        shared: an equal step, most likely of another build, runs already, on some worker: this one
            has its result, or runs if that build ends without one.
    """

    position: Count
    worker: Text
    shared: bool = False


class StepOutput(_Message, frozen=True, tag="step-output"):
    """What a step printed."""

    position: Count
    stream: int
    data: bytes


class StepProgress(_Message, frozen=True, tag="step-progress"):
    """How far a step's input has come, in bytes of content."""

    position: Count
    input: Count
    done_bytes: Count
    total_bytes: Count


class InputUse(msgspec.Struct, frozen=True):
    """How one input reached its step.

    Attributes:
        source: name of the step that made it.
        workers: where it was taken from (``client`` for the client itself).
        bytes_moved: bytes on the data plane.
        bytes_if_layers: what its whole layers would have been there: blobs where they have
            been made, the uncompressed tar where not.
    """

    mode: Mode
    source: Text = ""
    workers: tuple[Text, ...] = ()
    bytes_moved: Count = 0
    files_moved: Count = 0
    bytes_if_layers: Count = 0
    seconds: float = 0.0


class StepDone(_Message, frozen=True, tag="step-done"):
    """A step has its result.

    Attributes:
        seconds: from being placed to having the result; 0 when cached.
        shared: its result came from an equal step that ran at the same time.
    """

    position: Count
    worker: Text
    cached: bool
    seconds: float = 0.0
    inputs: tuple[InputUse, ...] = ()
    shared: bool = False


class PushProgress(_Message, frozen=True, tag="push-progress"):
    """How far a push has come, in bytes of layers; what a registry has already is not sent."""

    names: Names
    worker: Text
    done_bytes: Count = 0
    total_bytes: Count = 0


class Explained(_Message, frozen=True, tag="explained"):
    """Why a step was placed where it was; lines for people."""

    position: Count
    lines: tuple[Text, ...]


Event = (
    StepStarted
    | StepOutput
    | StepProgress
    | StepDone
    | PushProgress
    | TransferProgress
    | Explained
)
