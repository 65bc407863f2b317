"""What a sync loads before it calls a server: each module is time that nobody has anything of."""

import subprocess
import sys

LATER = ("filesync.sync.scanning", "filesync.sync.target", "filesync.disk.updating.update")
"""Who gives needs the first when a scan begins, while the server is being called, and the others never."""


def test_who_gives_loads_nothing_that_it_needs_later_or_never() -> None:
    script = "import sys, filesync.sync.remote.client, filesync.sync.remote.giving; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    loaded = ran.stdout.split()
    assert "filesync.sync.remote.giving" in loaded
    assert not set(LATER) & set(loaded)
