"""What a command in a container may ask of the kernel, by a program that makes one system call."""

import asyncio
import errno
import os
import struct
from pathlib import Path

import pytest

from worker.exec import ExecState, execute
from worker.wire.ops import ExecOp

pytestmark = [
    pytest.mark.needs("crun", "root"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the program is one of x86_64"),
]

NEW_USER, SIGCHLD = 0x10000000, 17
ORIGIN = 0x400000


def program(number: int, *args: int) -> bytes:
    """Return an ELF file that makes the call and exits with its error, 0 if it has none."""
    registers = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba")
    code = b"".join(
        register + struct.pack("<Q", arg & (1 << 64) - 1)
        for register, arg in zip(registers, args, strict=False)
    )
    code += b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"
    # What is no error, in the child of a clone too, is 0: test, jump over, else clear; negate; exit.
    code += b"\x85\xc0\x78\x02\x31\xc0\xf7\xd8\x89\xc7\xb8\x3c\x00\x00\x00\x0f\x05"
    size = 64 + 56 + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, ORIGIN + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, ORIGIN, ORIGIN, size, size, 4096) + code


def error_of(tmp_path: Path, number: int, *args: int) -> int:
    """Run the program in a container; return the error's number."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "call").write_bytes(program(number, *args))
    (root / "call").chmod(0o755)
    op = ExecOp(args=("/call",))
    state = ExecState.open(tmp_path / "state")
    printed: list[bytes] = []
    run = execute(
        op, root=root, inputs={}, state=state, on_output=lambda _, data: printed.append(data)
    )
    return asyncio.run(run)


@pytest.mark.parametrize(
    ("number", "args"),
    [
        pytest.param(248, (0, 0, 0), id="add_key"),
        pytest.param(249, (0, 0, 0), id="request_key"),
        pytest.param(250, (0, -4, 1), id="keyctl"),
        pytest.param(298, (0, 0, -1), id="perf_event_open"),
        pytest.param(321, (0, 0, 0), id="bpf"),
        pytest.param(323, (0,), id="userfaultfd"),
        pytest.param(425, (1, 0), id="io_uring_setup"),
        pytest.param(304, (0, 0, 0), id="open_by_handle_at"),
        pytest.param(103, (10, 0, 0), id="syslog"),
        pytest.param(179, (0, 0, 0), id="quotactl"),
        pytest.param(272, (NEW_USER,), id="unshare"),
        pytest.param(56, (NEW_USER | SIGCHLD, 0), id="clone"),
        pytest.param(41, (40, 1, 0), id="socket of the machine below"),
        pytest.param(41, (17, 3, 0x300), id="packets of the worker's network"),
        pytest.param(41, (2, 3, 1), id="raw packets"),
    ],
)
def test_what_no_capability_guards_is_refused(
    number: int, args: tuple[int, ...], tmp_path: Path
) -> None:
    assert error_of(tmp_path, number, *args) == errno.EPERM


def test_a_clone_whose_flags_cannot_be_seen_is_one_that_there_is_not(tmp_path: Path) -> None:
    assert error_of(tmp_path, 435, 0, 0) == errno.ENOSYS


@pytest.mark.parametrize(
    ("number", "args"),
    [
        pytest.param(39, (), id="getpid"),
        pytest.param(56, (SIGCHLD, 0), id="clone"),
        pytest.param(272, (0,), id="unshare of nothing"),
        pytest.param(41, (1, 1, 0), id="a local socket"),
        pytest.param(41, (2, 1, 0), id="a socket of the network"),
    ],
)
def test_what_builds_need_is_not(number: int, args: tuple[int, ...], tmp_path: Path) -> None:
    assert error_of(tmp_path, number, *args) == 0
