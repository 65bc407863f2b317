"""What a build tells a person, in words."""

from typing import Final

from solver.client.outputlines import MAX_LINE_CHARS, without_escapes
from solver.wire import InputUse, PushProgress, StepDone, TransferProgress

WAITS: Final = "waits for an equal step that runs already"


def moving(event: PushProgress | TransferProgress) -> tuple[str, str]:
    """Return what is on its way and where to, and the worker that gives it."""
    if isinstance(event, PushProgress):
        return f"pushing {', '.join(event.names)}", event.worker
    return f"moving {event.key.hex()[:16]} to {event.target}", event.source


def done_text(event: StepDone, name: str) -> str:
    """Return the line that ends a step."""
    if event.shared:
        return f"{name} SHARED with an equal step on {event.worker}"
    if event.cached:
        return f"{name} CACHED on {event.worker}"
    return f"{name} DONE {event.seconds:.2f}s on {event.worker}"


def use_text(use: InputUse) -> str:
    """Return the line that tells how an input came."""
    whole = f", {human(use.bytes_if_layers)} as whole layers" if use.bytes_if_layers else ""
    files = f" in {use.files_moved} files" if use.files_moved else ""
    origin = f" from {', '.join(use.workers)}" if use.workers else ""
    return f"{use.mode}: {use.source}{origin}: {human(use.bytes_moved)}{files} moved{whole}"


def human(size: int) -> str:
    """Return a size for people: ``1.5 MB``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError(unit)


def printable(text: str, most: int = MAX_LINE_CHARS) -> str:
    """Return one line of text that cannot steer a terminal; escapes for colour are dropped."""
    text = without_escapes(text)
    kept = (char if char.isprintable() or char == "\t" else "\ufffd" for char in text)
    return "".join(kept)[:most].rstrip("\ufffd")
