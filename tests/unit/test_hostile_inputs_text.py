"""docs/hostile-inputs.md names tests that are there, and errors that are."""

import re
from pathlib import Path

import filesync.errors
import filesync.transfer.errors
import solver.dockerfile.errors
import worker.git.errors
import worker.layers.errors
import worker.registry.errors
import worker.urls.errors

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/hostile-inputs.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith(("| input", "| ---"))
]


def test_every_test_that_is_named_is_there() -> None:
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert {name for row in ROWS for name in re.findall(r"`(test_\w+)`", row[-1])} <= defined


def test_every_row_has_an_input_an_answer_and_a_test() -> None:
    assert len(ROWS) > 70
    for row in ROWS:
        assert len(row) == 3
        assert re.fullmatch(r"`test_\w+`(, `test_\w+`)*", row[2])


def test_every_error_that_is_named_is_there() -> None:
    there = vars(filesync.errors) | vars(filesync.transfer.errors)
    there |= vars(worker.layers.errors) | vars(worker.registry.errors)
    there |= vars(worker.urls.errors) | vars(worker.git.errors)
    there |= vars(solver.dockerfile.errors)
    for _, answer, _ in ROWS:
        assert set(re.findall(r"`([A-Z]\w+)`", answer)) <= there.keys()
