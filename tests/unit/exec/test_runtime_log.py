"""What a runtime, and what launches it, say of a container that cannot be started."""

import json
from pathlib import Path

import pytest

from worker.exec.run import MAX_LOG_BYTES, _errors_in

WARNING = {"msg": "cgroups are old", "level": "warning", "time": "2026-11-30T17:39:14Z"}
ERROR = {"msg": "executable file `a}\n{b` not found in $PATH", "level": "error"}


def errors(tmp_path: Path, log: str) -> list[str]:
    (tmp_path / "log").write_text(log)
    return list(_errors_in(tmp_path / "log"))


@pytest.mark.parametrize("indent", [None, 2], ids=["in a line each", "over several lines"])
def test_of_a_runtimes_records_only_errors_count(tmp_path: Path, indent: int | None) -> None:
    log = "".join(json.dumps(one, indent=indent) + "\n" for one in (WARNING, ERROR, WARNING))
    assert errors(tmp_path, log) == [ERROR["msg"]]


def test_each_line_that_is_no_record_is_an_error(tmp_path: Path) -> None:
    log = f"125 mounts\n\n{json.dumps(WARNING)}\nmount: failed\n{{no record\n"
    assert errors(tmp_path, log) == ["125 mounts", "mount: failed", "{no record"]


def test_a_log_that_is_long_or_missing_is_no_fault(tmp_path: Path) -> None:
    assert list(_errors_in(tmp_path / "log")) == []
    assert len("".join(errors(tmp_path, "{" * 2 * MAX_LOG_BYTES))) == MAX_LOG_BYTES
    assert len(errors(tmp_path, "{\n" * MAX_LOG_BYTES)) == MAX_LOG_BYTES // 2
