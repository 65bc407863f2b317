"""Writable views whose writes are thrown away: an overlay, or a copy where there is none."""

import asyncio
import os
from pathlib import Path

from filesync.disk.removing import remove_path
from filesync.transfer.threads import until_done
from worker.exec.errors import RuntimeFailed
from worker.exec.launch import command_line, overlay_directories, overlay_staging
from worker.exec.spec import Bind, Throwaway, staged_name


async def without_overlay(item: Throwaway, copy: Path) -> Bind:
    """Return a writable bind of a private copy of ``item``'s source, made at ``copy``.

    Raises:
        RuntimeFailed: the source cannot be copied.
    """
    copied = await _run("cp", "-a", "--reflink=auto", "-T", "--", str(item.source), str(copy))
    if not copied:
        raise RuntimeFailed(f"what is to be shown at {item.target} cannot be copied")
    status = os.stat(copy, follow_symlinks=False)
    identity = (status.st_dev, status.st_ino)
    return Bind(copy, item.target, identity, directory=item.directory, read_only=False)


async def is_overlay_possible(item: Throwaway, scratch: Path) -> bool:
    """Tell by trying it, unseen by anyone, whether ``item`` can be an overlay.

    It cannot where the scratch space, or what the source stands on, is itself an overlay.
    """
    trial = scratch / "trial"
    try:
        (trial / staged_name(0)).mkdir(parents=True)
        for name in overlay_directories(0):
            (trial / name).mkdir(parents=True)
        return await _run(*command_line(["true"], overlay_staging(item, 0)), cwd=trial)
    finally:
        remove_path(trial)


async def _run(*words: str, cwd: Path | None = None) -> bool:
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        return await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await until_done(process.wait())
