"""Which containers an earlier worker has left."""

import asyncio
from pathlib import Path

import pytest

from worker.exec.ending import _containers
from worker.exec.runtime import Runtime


@pytest.mark.needs("root")
def test_a_runtime_that_has_no_containers_is_not_asked_for_them(tmp_path: Path) -> None:
    program = tmp_path / "crun"
    program.write_text("#!/bin/sh\necho asked\n")
    program.chmod(0o755)
    runtime = Runtime(program, tmp_path / "runtime")
    assert asyncio.run(_containers(runtime)) == []
    (tmp_path / "runtime/.cache").mkdir(parents=True)  # crun's own
    assert asyncio.run(_containers(runtime)) == []
    (tmp_path / "runtime/filesync-1").mkdir()
    assert asyncio.run(_containers(runtime)) == ["asked"]
