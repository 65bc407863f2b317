"""The workers whom the next build dials before it is told to."""

import asyncio
from pathlib import Path

from filesync.transfer.plane_zmq import DataPlane
from solver.client.workers import MAX_KEPT, MAX_MANAGERS, KnownWorkers

FAR = "tcp://192.0.2.1:7700"
LOOPBACK = "tcp://127.0.0.1:0"


def known(directory: Path, manager: str = FAR) -> list[str]:
    """Return whom a build by ``manager`` would dial."""
    dialled: list[str] = []

    class Plane(DataPlane):
        def dial(self, address: str, **_: object) -> object:  # type: ignore[override]
            dialled.append(address)
            return None

    KnownWorkers(directory, manager).dial(Plane())
    return dialled


def test_whom_a_build_needed_the_next_one_dials_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as worker, DataPlane() as plane:
            first = KnownWorkers(tmp_path, FAR)
            first.dial(plane)
            first.need(worker.address)
            first.keep()
            KnownWorkers(tmp_path, FAR).dial(plane)
            channel = plane.dial(worker.address)
            assert channel.greeting is not None  # that it dialled before, and has not waited
            assert await plane.connect(worker.address) is channel

    asyncio.run(main())
    assert len(known(tmp_path)) == 1


def test_who_has_answered_stays_known_and_who_has_not_does_not(tmp_path: Path) -> None:
    async def main() -> str:
        async with DataPlane(LOOPBACK) as there, DataPlane() as plane:
            async with DataPlane(LOOPBACK) as gone:
                before = KnownWorkers(tmp_path, FAR)
                before.need(gone.address)
                before.need(there.address)
                before.keep()
            now = KnownWorkers(tmp_path, FAR)
            now.dial(plane)
            await plane.connect(there.address)
            now.keep()
            return there.address

    answered = asyncio.run(main())
    assert known(tmp_path) == [answered]


def test_not_more_than_a_few_workers_are_known(tmp_path: Path) -> None:
    needed = [f"tcp://192.0.2.7:{port}" for port in range(7701, 7701 + 2 * MAX_KEPT)]
    workers = KnownWorkers(tmp_path, FAR)
    for address in needed:
        workers.need(address)
    workers.keep()
    assert known(tmp_path) == needed[:MAX_KEPT]


def test_each_manager_has_its_workers_and_one_on_this_machine_none(tmp_path: Path) -> None:
    managers = [FAR, "tcp://192.0.2.2:7700", "tcp://127.0.0.1:7700", "tcp://localhost:7700"]
    for number, manager in enumerate(managers):
        workers = KnownWorkers(tmp_path, manager)
        workers.need(f"tcp://192.0.2.7:{7701 + number}")
        workers.keep()
    assert [known(tmp_path, manager) for manager in managers] == [
        ["tcp://192.0.2.7:7701"],
        ["tcp://192.0.2.7:7702"],
        [],
        [],
    ]


def test_managers_that_nobody_uses_are_forgotten(tmp_path: Path) -> None:
    for number in range(MAX_MANAGERS + 10):
        workers = KnownWorkers(tmp_path, f"tcp://192.0.2.1:{7700 + number}")
        workers.need("tcp://192.0.2.7:7701")
        workers.keep()
    assert len(list(tmp_path.iterdir())) == MAX_MANAGERS


def test_what_cannot_be_read_or_written_is_no_matter(tmp_path: Path) -> None:
    workers = KnownWorkers(tmp_path, FAR)
    workers.need("no address")
    workers.keep()

    async def main() -> None:
        async with DataPlane() as plane:
            KnownWorkers(tmp_path, FAR).dial(plane)

    asyncio.run(main())
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(b"\xff\n")
    assert known(tmp_path) == []
    blocked = KnownWorkers(tmp_path / kept.name, FAR)
    blocked.need("tcp://192.0.2.7:7701")
    blocked.keep()
    assert known(tmp_path / kept.name) == []
