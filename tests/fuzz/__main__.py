"""Fuzz what peers send: ``python -m tests.fuzz [SECONDS [TARGET...]]``; ends with 1 if it finds something.

Each target runs that long (60 s by default) on one core, from a corpus in ``.fuzz`` that it keeps and
adds to. What it finds lies in ``.fuzz/found``; put it into FOUND of the tests
with its repair.
"""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

TARGETS: Final = (
    *("frames", "manifests", "requests", "carried", "cluster"),
    *("skeletons", "tables", "images", "caches"),
)
KEPT: Final = Path(".fuzz")
RSS_MB: Final = 512
SLOW_S: Final = 10
MAX_INPUT_BYTES: Final = 64 << 10
_STATUS: Final = re.compile(
    r"#(\d+)\s+(?:DONE|pulse|NEW|REDUCE|INITED).* cov: (\d+) ft: (\d+) corp: (\d+)"
)


def fuzz(name: str, seconds: int) -> bool:
    """Run one target; print its figures; say whether nothing was found."""
    corpus, found = KEPT / name, KEPT / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    for number, data in enumerate(import_module(f"tests.fuzz.{name}").seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    limits = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={RSS_MB}",
        f"-timeout={SLOW_S}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-artifact_prefix={found}/{name}-",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", "tests.fuzz.run", name, *limits, str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    log = done.stdout + done.stderr
    (KEPT / f"{name}.log").write_text(log)
    print(f"{name}: {_figures(log)}", flush=True)
    if done.returncode:
        print(f"{name}: FOUND something; its log, {KEPT}/{name}.log, ends with")
        print("\n".join(log.splitlines()[-40:]))
    return not done.returncode


def _figures(log: str) -> str:
    statuses = _STATUS.findall(log)
    if not statuses:
        return "it did not start"
    runs, coverage, features, inputs = statuses[-1]
    rate = re.search(r"average_exec_per_sec: *(\d+)", log)
    memory = re.search(r"peak_rss_mb: *(\d+)", log)
    return (
        f"{int(runs):,} executions, {rate[1] if rate else '?'}/s, coverage {coverage}, "
        f"features {features}, corpus {inputs}, peak {memory[1] if memory else '?'} MB"
    )


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    names = sys.argv[2:] or TARGETS
    clean = [fuzz(name, seconds) for name in names]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
