"""``--secret``, and how far what it names goes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from filesync.errors import MalformedMessage, UsageError
from solver import wire
from solver.client.secrets import MAX_ALL_BYTES, read_secrets
from solver.graph import Graph, Vertex
from solver.manager.build import Build
from solver.wire import StartBuild
from tests.unit.solver.fakes import World
from worker.wire import orders
from worker.wire.ops import ExecOp, SecretMount, SshMount, op_digest
from worker.wire.orders import VERSION, Order, Run
from worker.wire.secrets import MAX_SECRET_BYTES, MAX_SECRETS, Secret, secrets_for

MINE = Secret("mine", b"correct-horse")
OTHER = Secret("other", b"battery-staple")
OP = ExecOp(("x",), mounts=(SecretMount("/m", "mine"),), scratch=True)
GRAPH = Graph((Vertex(OP, (), "RUN x"),), 0)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with a file, and an environment with a variable."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"of a file\n\0")
    Path("FILE_AND_VARIABLE").write_bytes(b"of a file")
    monkeypatch.setenv("VARIABLE", "of a variable")
    monkeypatch.setenv("FILE_AND_VARIABLE", "of a variable")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("id=a,src=file", b"of a file\n\0"),
        ("id=a,source=file", b"of a file\n\0"),
        ("ID=a,Type=file,src=file", b"of a file\n\0"),
        ("id=file", b"of a file\n\0"),
        ("id=VARIABLE", b"of a variable"),
        ("id=a,env=VARIABLE", b"of a variable"),
        ("id=a,type=env,src=VARIABLE", b"of a variable"),
        ("id=VARIABLE,type=env", b"of a variable"),
        ("id=FILE_AND_VARIABLE", b"of a variable"),
        ("id=FILE_AND_VARIABLE,type=file", b"of a file"),
        ("id=a,env=EMPTY", b""),
        ('"id=a",src=file', b"of a file\n\0"),
    ],
)
def test_a_secret_is_what_the_option_names(text: str, data: bytes) -> None:
    (secret,) = read_secrets([text])
    assert secret.data == data


def test_of_two_with_one_id_the_last_counts() -> None:
    assert read_secrets(["id=a,src=file", "id=a,env=VARIABLE"]) == (
        Secret("a", b"of a variable"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "say which: id=NAME,src=FILE|is none of"),
        ("file", "'file' is none of id, src, env, type=…"),
        ("src=file", "say which: id=NAME,src=FILE"),
        ("id=,src=file", "say which"),
        ("id=a,src=file,mode=0400", "'mode=0400' is none of"),
        ("id=a,src=file,env=VARIABLE", "give src= or env=, not both"),
        ("id=a,type=file,env=VARIABLE", "a file is given with src="),
        ("id=a,type=ssh", "the type is file or env"),
        ("id=a,env=UNSET", "there is no environment variable UNSET"),
        ("id=UNSET,type=env", "there is no environment variable UNSET"),
        ("id=UNSET", "UNSET: No such file or directory; name the file with src="),
        ("id=a,src=.", "Is a directory"),
        ("id=a,src=\0", "name the file with src="),
        ('id=a,"src', "write it as id=NAME,src=FILE"),
        (f"id={'a' * 5000},src=file", "an id is text of at most 4096 characters"),
        ("id=\udcff,src=file", "an id is text of at most"),
    ],
)
def test_what_names_no_secret_is_a_sentence(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_secrets([text])


def test_a_secret_has_an_end_and_so_have_all_together() -> None:
    Path("most").write_bytes(bytes(MAX_SECRET_BYTES))
    Path("more").write_bytes(bytes(MAX_SECRET_BYTES + 1))
    fits = MAX_ALL_BYTES // MAX_SECRET_BYTES
    assert len(read_secrets([f"id={n},src=most" for n in range(fits)])) == fits
    with pytest.raises(UsageError, match="it is larger than 512000 bytes"):
        read_secrets(["id=a,src=more"])
    with pytest.raises(UsageError, match="bytes in all are more than"):
        read_secrets([f"id={n},src=most" for n in range(fits + 1)])
    with pytest.raises(UsageError, match="101 secrets are more than 100"):
        read_secrets([f"id={n},src=file" for n in range(MAX_SECRETS + 1)])


@pytest.mark.parametrize(
    "secrets",
    [
        (Secret("a", bytes(MAX_SECRET_BYTES + 1)),),
        (Secret("", b""),),
        (Secret("a" * 5000, b""),),
        tuple(Secret(str(n), b"") for n in range(MAX_SECRETS + 1)),
    ],
)
def test_secrets_beyond_a_cap_are_malformed(secrets: tuple[Secret, ...]) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_to_manager(wire.encode(StartBuild(VERSION, GRAPH, secrets=secrets)))
    with pytest.raises(MalformedMessage):
        orders.decode_to_worker(orders.encode(Order(1, Run(OP, (), secrets=secrets))))


def test_no_text_about_a_message_has_the_data() -> None:
    start = StartBuild(VERSION, GRAPH, secrets=(MINE,))
    assert "horse" not in f"{start} {Order(1, Run(OP, (), secrets=(MINE,)))!r}"
    assert "Secret('mine')" in repr(start)


async def test_only_the_secrets_that_a_step_names_go_to_its_worker(world: World) -> None:
    worker = world.worker("a")
    plain = Vertex(ExecOp(("y",)), (0,), "RUN y")
    graph = Graph((*GRAPH.vertices, plain), 1)
    request = StartBuild(VERSION, graph, secrets=(OTHER, MINE))
    build = Build(world.shared, request, world.client())
    await build.solve_target()
    await build.release()
    runs = {one.op: one.secrets for one in worker.orders if isinstance(one, Run)}
    assert runs == {OP: (MINE,), plain.op: ()}


@pytest.mark.parametrize(
    ("mount", "more"),
    [
        (SecretMount("/m", "mine"), {"mode": 0o440, "env": "M"}),
        (SshMount("/m", "mine"), {"mode": 0o660}),
    ],
)
def test_what_is_asked_of_a_secret_or_an_agent_is_part_of_the_op(
    mount: SecretMount | SshMount, more: dict[str, Any]
) -> None:
    changes = {
        "target": "/n",
        "id": "other",
        "uid": 1,
        "gid": 1,
        "required": True,
        **more,
    }
    mounts = [msgspec.structs.replace(mount, **{key: value}) for key, value in changes.items()]
    ops = [msgspec.structs.replace(OP, mounts=(one,)) for one in (mount, *mounts)]
    assert len(set(map(op_digest, ops))) == len(changes) + 1


def test_other_ops_need_no_secrets() -> None:
    assert secrets_for(ExecOp(("y",)), (MINE,)) == ()
    assert secrets_for(OP, (OTHER,)) == ()
