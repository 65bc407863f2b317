"""The cluster that a build starts for itself, and who can reach it."""

import asyncio
import stat
from pathlib import Path

import pytest

from solver.client.embedded import embedded_cluster
from solver.client.link_zmq import ManagerLink
from solver.wire import ListWorkers, Workers


def _listened_at_by_children() -> set[str]:
    """Return at which of this machine's TCP addresses, as the kernel writes them, children listen."""
    pids = Path("/proc/thread-self/children").read_text().split()
    held = {str(fd.readlink()) for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in held}


@pytest.mark.parametrize("listen", [None, "tcp://127.0.0.1:0"])
def test_nobody_but_its_user_reaches_a_cluster_unless_it_shall_listen(
    tmp_path: Path, listen: str | None
) -> None:
    async def addresses() -> list[str]:
        others = _listened_at_by_children()  # a cluster of other tests may be there still
        async with embedded_cluster(tmp_path, workers=2, listen=listen) as manager:
            async with ManagerLink(manager) as link:
                rows = (await link.ask(ListWorkers(2), Workers)).rows
            found = [manager, *(row.address for row in rows)]
            # A step of a build is on the same network.
            assert bool(_listened_at_by_children() - others) == bool(listen)
            for address in found:
                if listen is None:
                    directory = Path(address.removeprefix("ipc://")).parent
                    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            return found

    scheme = "tcp://" if listen else "ipc:///"
    assert all(one.startswith(scheme) for one in asyncio.run(addresses()))
