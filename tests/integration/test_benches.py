"""Every benchmark of the transfer engine runs, at a size at which it says nothing about speed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import growth
from bench.sync import compare

BENCHES = {
    "limits": ["--mib", "4", "--rounds", "1"],
    "diff": ["--directories", "200", "--repeats", "2"],
    "growth": [
        "--files",
        "210",
        "--files",
        "10",
        "--files",
        "10",
        "--rounds",
        "1",
        "--repeats",
        "1",
    ],
    "running_pair": ["--files", "210", "--repeats", "2"],
    "throughput": ["--mib", "20", "--rounds", "1"],
}


LAYERS = ["--files", "60", "--bytes", "3000000", "--rounds", "1"]
NEEDS = ("root", "ip", "rsync", "zstd", "skopeo", "umoci", "docker-registry")


def figures_of(
    bench: str, tmp_path: Path, *sizes: str, timeout_s: float = 120
) -> dict[str, Any]:
    """Run a benchmark; return what it saves."""
    words = [sys.executable, "-m", f"bench.{bench}", *sizes]
    env = {**os.environ, "BENCH_RESULTS": str(tmp_path / "results")}
    subprocess.run(words, check=True, env=env, timeout=timeout_s, stdout=subprocess.DEVNULL)
    saved: dict[str, Any] = json.loads((tmp_path / f"results/{bench}.json").read_text())
    return saved


@pytest.mark.needs(*NEEDS)
def test_the_bench_of_layers_runs_verifies_its_output_and_saves_figures(tmp_path: Path) -> None:
    where = ("--where", str(tmp_path))
    (run,) = figures_of("layers", tmp_path, *LAYERS, *where, timeout_s=300)["runs"]
    assert run["blob_bytes"] < run["made"]["data_bytes"] < run["registry"]["wire_bytes"]
    assert run["near"]["data_bytes"] < 0.2 * run["blob_bytes"]
    assert "<rect" in (tmp_path / "results" / "layers.svg").read_text()


@pytest.mark.needs("root", "ip", "tc")
def test_what_two_workers_want_at_once_is_sent_once_by_any_worker(tmp_path: Path) -> None:
    sizes = ["--takers", "2", "--mb", "20", "--mbit", "200"]
    saved = figures_of("spread", tmp_path, *sizes, "--where", str(tmp_path))
    # On a busy machine who stands by may be tried.
    assert 20e6 < saved["base"]["1"]["most_sent_by_one"] < 23e6
    assert 20e6 < saved["base"]["2"]["most_sent_by_one"] < 30e6
    assert 20e6 < saved["context"]["2"]["most_sent_by_one"] < 30e6


@pytest.mark.needs("root", "ip")
def test_the_bench_of_distant_builds_runs_and_saves_figures(tmp_path: Path) -> None:
    sizes = ["--files", "10", "--rounds", "1", "--link", "1000,20"]
    saved = figures_of("distant", tmp_path, *sizes, "--where", str(tmp_path))
    assert all(row["far_s"]["median"] > 0.02 for row in saved["edited"].values())


@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_runs_verifies_its_output_and_saves_figures_and_a_plot(
    name: str, tmp_path: Path
) -> None:
    where = [] if name == "diff" else ["--where", str(tmp_path)]
    saved = figures_of(name, tmp_path, *BENCHES[name], *where)
    assert saved["machine"]["cores"] == os.cpu_count()
    assert "<rect" in (tmp_path / "results" / f"{name}.svg").read_text()


@pytest.mark.parametrize("files", ["1", "0"])
def test_growth_is_not_measured_from_what_it_is_measured_by(
    files: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        growth.main(["--files", files])
    assert "one file is what all sizes are held against" in capsys.readouterr().err


@pytest.mark.needs("root", "docker-registry", "skopeo")
def test_importing_a_part_of_an_image_takes_little_more_than_its_chunks(tmp_path: Path) -> None:
    sizes = ["--files", "300", "--bytes", "20000000", "--needed-bytes", "3000000"]
    where = ("--where", str(tmp_path))
    saved = figures_of("importing", tmp_path, *sizes, "--repeats", "1", *where)
    assert 1 <= saved["over_chunks"]["together"] <= 1.15
    assert saved["runs"]["gzip_together"]["stored_bytes"] < 10_000
    assert "<rect" in (tmp_path / "results/importing.svg").read_text()


def test_a_tree_that_is_not_the_source_fails_the_comparison(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(content)
        os.utime(tmp_path / name / "file", (1, 1))
    with pytest.raises(SystemExit, match="not what the source is"):
        compare(tmp_path / "a", tmp_path / "b")
