"""What a worker has finished outlives the end of its machine."""

import asyncio
import logging
from pathlib import Path

import pytest

from filesync.digest import Digest
from worker import process
from worker.snapshots import mounts, snapshotter
from worker.store import Store
from worker.store.results import keep


def made(store: Store, text: str, parent: Digest | None = None) -> Digest:
    active = store.prepare_on(None if parent is None else store.refs.get(parent))
    (active.path / text).write_text(text)
    return keep(store, active, {}, parent, ()).ref


def refs_after_a_boot(state: Path, monkeypatch: pytest.MonkeyPatch) -> set[Digest]:
    monkeypatch.setattr(snapshotter, "boot_id", lambda: "a later boot")
    store = Store.open(state, snapshotter="copy")
    found = {info.ref for info in store.refs.infos()}
    store.close()
    return found


def test_results_are_there_after_a_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path, snapshotter="copy")
    first = made(store, "first")
    both = {first, made(store, "second", first)}
    store.close()
    store.close()
    assert refs_after_a_boot(tmp_path, monkeypatch) == both


def test_results_are_there_after_a_crash_that_came_some_time_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "FLUSH_S", 0.05)
    store = Store.open(tmp_path, snapshotter="copy")
    first = made(store, "first")

    async def flushed() -> None:
        done, loop, real = asyncio.Event(), asyncio.get_running_loop(), store.flush

        def flush() -> None:
            real()
            loop.call_soon_threadsafe(done.set)

        with monkeypatch.context() as told:
            told.setattr(store, "flush", flush)
            flushing = asyncio.create_task(process._keep_flushed(store))
            await asyncio.wait_for(done.wait(), 20)
            flushing.cancel()
            await asyncio.wait({flushing})

    asyncio.run(flushed())
    made(store, "second", first)
    assert refs_after_a_boot(tmp_path, monkeypatch) == {first}
    store.close()


def test_a_disk_that_cannot_be_flushed_is_told_of_and_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ill(_: Path) -> None:
        raise OSError(5, "Input/output error")

    store = Store.open(tmp_path, snapshotter="copy")
    made(store, "first")
    with monkeypatch.context() as disk, caplog.at_level(logging.WARNING):
        disk.setattr(snapshotter, "flush", ill)
        store.close()
    assert "results may not outlive the machine" in caplog.text
    assert refs_after_a_boot(tmp_path, monkeypatch) == set()


def test_nothing_is_flushed_when_nothing_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []

    def flush(directory: Path) -> None:
        flushed.append(directory)
        mounts.flush(directory)

    monkeypatch.setattr(snapshotter, "flush", flush)
    store = Store.open(tmp_path, snapshotter="copy")
    made(store, "first")
    store.flush()
    store.flush()
    store.close()
    assert len(flushed) == 1
