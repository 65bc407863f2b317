"""The account of a build, and the metadata file."""

from solver.client.outputs.report import BuildReport, metadata
from solver.graph import Graph, Vertex
from solver.keys import definition_keys
from solver.wire import Built, Exported, InputUse, StepDone, StepOutput, StepStarted
from tests.unit.solver.fakes import IMAGE, digest
from worker.wire.ops import ExecOp
from worker.wire.orders import Mode

GRAPH = Graph(tuple(Vertex(ExecOp((n,)), (), n, "build") for n in ("one", "two", "three")), 2)
USE = InputUse(Mode.PATHS, "one", ("a", "client"), 30, 2, 500, 0.12345678)


def reported() -> BuildReport:
    report = BuildReport(GRAPH)
    report.add(StepStarted(1, "a"))
    report.add(StepOutput(1, 1, b"noise"))
    report.add(StepDone(0, "b", cached=True))
    report.add(StepDone(1, "a", cached=False, seconds=1.23456789, inputs=(USE,)))
    return report


def test_steps_that_had_no_result_are_left_out() -> None:
    names = [step["name"] for step in reported().as_json()["steps"]]
    assert names == ["one", "two"]


def test_step_tells_where_it_ran_and_how_its_inputs_came() -> None:
    assert reported().as_json()["steps"][1] == {
        "name": "two",
        "stage": "build",
        "key": definition_keys(GRAPH)[1].hex(),
        "worker": "a",
        "cached": False,
        "seconds": 1.234568,
        "inputs": [
            {
                "mode": "paths",
                "source": "one",
                "from": ["a", "client"],
                "bytes_moved": 30,
                "files_moved": 2,
                "bytes_if_layers": 500,
                "seconds": 0.123457,
            }
        ],
    }


def test_totals_are_the_sums() -> None:
    assert reported().totals() == {
        "steps": 3,
        "steps_run": 1,
        "steps_cached": 1,
        "bytes_moved": 30,
        "files_moved": 2,
        "bytes_if_layers": 500,
    }


def test_step_that_runs_again_is_counted_once() -> None:
    report = reported()
    report.add(StepDone(1, "b", cached=False, inputs=(USE,)))
    assert report.totals()["bytes_moved"] == 30
    assert report.steps[1].worker == "b"


def test_metadata_without_an_image_is_ours_alone() -> None:
    found = metadata(reported(), Built(digest("c")), name="", seconds=2.00049)
    assert list(found) == ["filesync"]
    assert found["filesync"]["content"] == f"blake3:{digest('c').hex()}"
    assert found["filesync"]["totals"]["seconds"] == 2.0


def test_metadata_of_an_image_has_buildkits_keys() -> None:
    image = Exported("a", "tcp://a", bytes(16), digest("t"), (IMAGE, 123), "sha256:" + "c" * 64)
    built = Built(digest("c"), (image,), (10, 20))
    found = metadata(reported(), built, name="app:1", seconds=1)
    ours = found.pop("filesync")
    assert ours["totals"]["manager_bytes_received"] == 10
    assert ours["totals"]["manager_bytes_sent"] == 20
    assert found == {
        "containerimage.config.digest": "sha256:" + "c" * 64,
        "containerimage.descriptor": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": IMAGE,
            "size": 123,
        },
        "containerimage.digest": IMAGE,
        "image.name": "app:1",
    }
