"""Machines in a network, on this one: network namespaces, and links with a rate between them.

The links are the kernel's own, a virtual pair and a token bucket each way, so TCP sees them as it
would see a switch whose ports have that rate. Takes root, ip and tc, and a network namespace that
nothing else is in.
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.processes import Machine

HERE: Final = "192.0.2.254"
"""This machine's address there; of a network that is for documentation (RFC 5737)."""


@contextmanager
def network(count: int, mbit: float) -> Iterator[list[Machine]]:
    """Make ``count`` machines whose links take ``mbit`` megabits a second each way.

    This machine is in the network too, and its link has no rate.
    """
    _run("ip link set lo up")
    _run("ip link add switch type bridge")
    _run(f"ip address add {HERE}/24 dev switch")
    _run("ip link set switch up")
    with ExitStack() as stack:
        yield [stack.enter_context(_machine(number, mbit)) for number in range(1, count + 1)]


@contextmanager
def _machine(number: int, mbit: float) -> Iterator[Machine]:
    inside = "ip link set lo up && echo up && exec sleep inf"
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", inside], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit("a network of its own takes root, unshare and ip")
            host, port, end = f"192.0.2.{number}", f"port{number}", f"end{number}"
            there = ["nsenter", "--net", "--target", str(process.pid)]
            _run(f"ip link add {port} type veth peer name {end}")
            _run(f"ip link set {end} netns {process.pid}")
            _run(f"ip link set {port} master switch up")
            _run(f"ip address add {host}/24 dev {end}", *there)
            _run(f"ip link set {end} up", *there)
            bucket = f"root tbf rate {mbit}mbit burst 256k latency 100ms"
            _run(f"tc qdisc add dev {port} {bucket}")
            _run(f"tc qdisc add dev {end} {bucket}", *there)
            yield Machine(host, tuple(there))
        finally:
            process.kill()


def sent_bytes(count: int) -> list[int]:
    """Return what each of ``count`` machines has sent into the network."""
    found: dict[str, int] = {}
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, colon, counts = line.partition(":")
        if colon:
            found[name.strip()] = int(counts.split()[0])
    return [found[f"port{number}"] for number in range(1, count + 1)]


def _run(command: str, *through: str) -> None:
    subprocess.run([*through, *command.split()], check=True)
