"""What processes leave behind."""

from pathlib import Path


def left(root: Path) -> list[str]:
    """Return the mounts below ``root`` and the processes that name it; print them."""
    found = [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(root) in line
    ]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) in words:
            found.append(words)
    for one in found:
        print(f"left: {one}")
    return found
