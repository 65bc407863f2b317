"""What a build did: BuildKit's metadata file, with the key ``filesync`` beside its own."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from solver.graph import Graph
from solver.keys import definition_keys
from solver.wire import Built, Event, Exported, StepDone, StepStarted
from worker.wire.images import Pushed

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
NONE: Mapping[str, str] = MappingProxyType({})


class InputReport(msgspec.Struct, frozen=True):
    """How one input reached its step; see ``solver.wire.InputUse``."""

    mode: str
    source: str
    from_workers: tuple[str, ...]
    bytes_moved: int
    files_moved: int
    bytes_if_layers: int
    seconds: float


class StepReport(msgspec.Struct):
    """One step of the graph, in graph order; ``key`` is its cache key, in hex."""

    name: str
    stage: str
    key: str = ""
    worker: str = ""
    cached: bool = False
    seconds: float = 0.0
    inputs: list[InputReport] = msgspec.field(default_factory=list)
    done: bool = False


class BuildReport:
    """Collects a build's events into one account of it."""

    def __init__(self, graph: Graph) -> None:
        self.steps = [
            StepReport(vertex.name, vertex.stage, key.hex())
            for vertex, key in zip(graph.vertices, definition_keys(graph), strict=True)
        ]

    def add(self, event: Event) -> None:
        """Take an event; those that say nothing of the outcome are ignored."""
        match event:
            case StepStarted(position, worker):
                self.steps[position].worker = worker
            case StepDone(position, worker, cached, seconds, inputs):
                step = self.steps[position]
                step.worker, step.cached, step.seconds = worker, cached, seconds
                step.done = True
                step.inputs = [
                    InputReport(
                        use.mode.value,
                        use.source,
                        use.workers,
                        use.bytes_moved,
                        use.files_moved,
                        use.bytes_if_layers,
                        round(use.seconds, 6),
                    )
                    for use in inputs
                ]
            case _:
                pass

    def settle(self) -> None:
        """Take what was never spoken of as cached: a later step's result made it unneeded."""
        for step in self.steps:
            if not step.done:
                step.done = step.cached = True

    @property
    def ran(self) -> list[StepReport]:
        """The steps that ran."""
        return [step for step in self.steps if step.done and not step.cached]

    def totals(self) -> dict[str, int | float]:
        """Return the sums over all steps."""
        inputs = [use for step in self.steps for use in step.inputs]
        return {
            "steps": len(self.steps),
            "steps_run": len(self.ran),
            "steps_cached": sum(step.cached for step in self.steps),
            "bytes_moved": sum(use.bytes_moved for use in inputs),
            "files_moved": sum(use.files_moved for use in inputs),
            "bytes_if_layers": sum(use.bytes_if_layers for use in inputs),
        }

    def as_json(self) -> dict[str, Any]:
        """Return the value of the metadata file's key ``filesync``."""
        return {
            "steps": [_step_json(step) for step in self.steps if step.done],
            "totals": self.totals(),
        }


def metadata(
    report: BuildReport,
    built: Built,
    *,
    name: str,
    seconds: float,
    client_bytes: tuple[int, int] = (0, 0),
    annotations: Mapping[str, str] = NONE,
) -> dict[str, Any]:
    """Return the content of the metadata file of a build that succeeded.

    ``client_bytes`` is what the client's data plane has received and sent of file data,
    ``annotations`` those of the image's descriptor.
    """
    report.settle()
    ours = report.as_json()
    ours["totals"]["seconds"] = round(seconds, 3)
    ours["totals"]["manager_bytes_received"] = built.manager_bytes[0]
    ours["totals"]["manager_bytes_sent"] = built.manager_bytes[1]
    ours["totals"]["client_bytes_received"], ours["totals"]["client_bytes_sent"] = client_bytes
    if built.content is not None:
        ours["content"] = f"blake3:{built.content.hex()}"
    if built.pushed:
        ours["totals"]["bytes_pushed"] = sum(one.bytes_sent for one in built.pushed)
        ours["totals"]["layers_mounted"] = sum(one.mounted for one in built.pushed)
    return {**_image_json(built, name, annotations), "filesync": ours}


def _image_json(built: Built, name: str, annotations: Mapping[str, str]) -> Mapping[str, Any]:
    images: list[Exported | Pushed] = [*built.pushed, *built.exports]
    image = next((one for one in images if one.manifest is not None), None)
    if image is None or image.manifest is None:
        return {"image.name": name} if name else {}
    digest, size = image.manifest
    descriptor: dict[str, Any] = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": size}
    if annotations:
        descriptor["annotations"] = dict(annotations)
    found: dict[str, Any] = {
        "containerimage.config.digest": image.config,
        "containerimage.descriptor": descriptor,
        "containerimage.digest": digest,
    }
    return {**found, "image.name": name} if name else found


def _step_json(step: StepReport) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(step)
    del value["done"]
    value["seconds"] = round(step.seconds, 6)
    for use in value["inputs"]:
        use["from"] = list(use.pop("from_workers"))
    return value
