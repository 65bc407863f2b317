"""A link that is slower than the loopback: a relay with a rate and a delay.

What comes in is passed on when such a link would have brought it, all connections together. The
kernel's TCP sees no delay, so a connection has its full speed at once, and to connect takes no
round trip: what is shown is what round trips and bytes cost, which differs between tools.
"""

import asyncio
import ctypes
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple

FAR_HOST: Final = "192.0.2.1"
"""Of a network that is for documentation (RFC 5737): nobody's, and not the loopback's."""
PIECE_BYTES: Final = 16 << 10
QUEUED_BYTES: Final = 64 << 10
"""What waits to be sent at most, as in a router's buffer."""


class Link(NamedTuple):
    """A link: megabits a second each way, and milliseconds for a round trip."""

    mbit: float
    rtt_ms: float


def link_of(text: str) -> Link:
    """Return the link that ``MBIT,MS`` is.

    Raises:
        ValueError: it is none.
    """
    mbit, rtt_ms = map(float, text.split(","))
    return Link(mbit, rtt_ms)


class _Direction:
    """One way of a link, for all that goes that way."""

    def __init__(self, link: Link) -> None:
        self._bytes_per_s = link.mbit * 125_000
        self.delay_s = link.rtt_ms / 2000
        self._free_s = 0.0

    def put(self, size: int, now_s: float) -> tuple[float, float]:
        """Take ``size`` bytes; return when more is taken, and when these have arrived."""
        self._free_s = max(self._free_s, now_s) + size / self._bytes_per_s
        return self._free_s - QUEUED_BYTES / self._bytes_per_s, self._free_s + self.delay_s


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction
) -> None:
    """Bring what ``reader`` gives to ``writer``, in order, until its end."""
    now = asyncio.get_running_loop().time
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def send() -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(PIECE_BYTES):
                again_s, arrival_s = direction.put(len(piece), now())
                under_way.put_nowait((arrival_s, piece))
                await asyncio.sleep(again_s - now())
        under_way.put_nowait((now() + direction.delay_s, b""))

    async def arrive() -> None:
        with suppress(ConnectionError):
            while True:
                arrival_s, piece = await under_way.get()
                await asyncio.sleep(arrival_s - now())
                if not piece:
                    break
                writer.write(piece)
                await writer.drain()
        writer.close()

    await asyncio.gather(send(), arrive())


async def _listen(host: str, ports: Sequence[tuple[int, int]], link: Link) -> None:
    there, back = _Direction(link), _Direction(link)

    async def relay(
        port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(
            _carry(reader, far_writer, there), _carry(far_reader, writer, back)
        )

    for port, behind in ports:
        await asyncio.start_server(partial(relay, behind), host, port)


def _run(ports: Sequence[tuple[int, int]], link: Link) -> None:
    async def run() -> None:
        await _listen("127.0.0.1", ports, link)
        await asyncio.Event().wait()

    asyncio.run(run())


def _run_between(ports: Collection[int], link: Link, far: int) -> None:
    """Listen in the network of the process ``far``, and dial in this one."""

    async def run(here: int, there: int) -> None:
        _enter(there)
        await _listen(FAR_HOST, [(port, port) for port in ports], link)
        _enter(here)
        await asyncio.Event().wait()

    with open("/proc/self/ns/net", "rb") as here, open(f"/proc/{far}/ns/net", "rb") as there:
        asyncio.run(run(here.fileno(), there.fileno()))


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # ``os.setns`` is Python 3.12's
    if libc.setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def far_away(ports: Collection[int], link: Link) -> Iterator[list[str]]:
    """Make a network in which FAR_HOST has ``ports`` of this one's FAR_HOST, over ``link``.

    Yields the words that run a command there. Takes root, and FAR_HOST as an address of this network.
    """
    inside = (
        f"ip link set lo up && ip address add {FAR_HOST} dev lo && echo up && exec sleep inf"
    )
    far = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", inside], stdout=subprocess.PIPE, text=True
    )
    try:
        assert far.stdout is not None
        if not far.stdout.readline():
            raise SystemExit("a network of its own takes root, unshare and ip")
        process = get_context("spawn").Process(target=_run_between, args=(ports, link, far.pid))
        process.start()
        try:
            yield ["nsenter", "--net", "--target", str(far.pid)]
        finally:
            process.terminate()
            process.join()
    finally:
        far.kill()
        far.communicate()


@contextmanager
def relaying(ports: Sequence[tuple[int, int]], link: Link) -> Iterator[None]:
    """Relay each first port of ``ports`` to its second, on the loopback, over ``link``."""
    process = get_context("spawn").Process(target=_run, args=(ports, link))
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def loopback_bytes() -> int:
    """Return what was received on lo; on a loopback this is what was sent."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0])
    raise SystemExit("this network namespace has no loopback")
