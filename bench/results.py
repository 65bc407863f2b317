"""Where figures go: JSON with what is needed to judge them, and a plot."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("BENCH_RESULTS") or Path(__file__).parent / "results")
_BAR, _GAP, _WIDTH, _LABEL = 22, 14, 520, 230


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return minimum, median and maximum."""
    return {
        "min": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "max": round(max(values), 4),
    }


def save(name: str, value: Mapping[str, Any]) -> Path:
    """Write ``name.json`` and print it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({"machine": machine(), **value}, indent=2)
    path.write_text(text + "\n")
    print(text)
    return path


def plot(name: str, groups: Sequence[tuple[str, Sequence[tuple[str, float, str]]]]) -> Path:
    """Write ``name.svg``: a group of bars each, (label, value, how to write the value)."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    parts: list[str] = []
    y = 10
    for title, bars in groups:
        parts.append(f'<text x="10" y="{y + 14}" class="t">{escape(title)}</text>')
        y += 26
        top = max(value for _, value, _ in bars) or 1.0
        for label, value, written in bars:
            length = max(1.0, value / top * (_WIDTH - 90))
            middle = y + _BAR * 0.7
            parts.append(f'<text x="{_LABEL}" y="{middle}" class="l">{escape(label)}</text>')
            parts.append(
                f'<rect x="{_LABEL + 10}" y="{y}" width="{length:.1f}" height="{_BAR}"/>'
            )
            parts.append(
                f'<text x="{_LABEL + 16 + length:.1f}" y="{middle}">{escape(written)}</text>'
            )
            y += _BAR + 4
        y += _GAP
    style = (
        "text{font:13px sans-serif}.t{font-weight:bold}.l{text-anchor:end}rect{fill:#3b7ea1}"
    )
    path = RESULTS / f"{name}.svg"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABEL + _WIDTH + 40}" height="{y}">'
        f'<style>{style}</style><rect width="100%" height="100%" style="fill:white"/>'
        f"{''.join(parts)}</svg>\n"
    )
    return path
