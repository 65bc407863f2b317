"""A client's connection to a manager that is played here, message by message."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from filesync.digest import Digest
from filesync.keys.files import KeyPair, PublicKey
from filesync.manifest import MemoryNodes, empty_manifest
from filesync.transfer.connection import curve_zmq
from filesync.transfer.connection.address import with_key
from filesync.transfer.errors import GreetingBroken, UnknownHost
from solver.client import link_zmq
from solver.client.link_zmq import IMAGES_AT_ONCE, ManagerLink
from solver.errors import BuildError, CutOff, ManagerLost, OrderFailed
from solver.manager import cluster
from solver.manager.process import open_manager
from solver.manager.server_zmq import QUIET_S
from solver.manager.workers import Sent
from solver.wire import (
    Alive,
    AskImage,
    AskPrune,
    Denied,
    FoundImage,
    Have,
    Lack,
    ListWorkers,
    NoImage,
    StepOutput,
    ToClient,
    Usages,
    Workers,
    decode_to_client,
    decode_to_manager,
    encode,
)
from tests.integration.gateway import gateway
from worker.wire import orders


class Played:
    """A manager that does what a test says.

    Attributes:
        heard: what came, in its order.
        is_mute: it does not even say that it is alive.
    """

    def __init__(self, socket: zmq.asyncio.Socket, *, is_mute: bool) -> None:
        self._socket = socket
        self.is_mute = is_mute
        self._client = b""
        self._hears = asyncio.Event()
        self.heard: list[object] = []
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def run(self) -> None:
        """Take what comes; answer that this is alive, unless it is mute."""
        while True:
            self._client, *frames = await self._socket.recv_multipart()
            message, _ = decode_to_manager(frames)
            self.heard.append(message)
            self._hears.set()
            if isinstance(message, Alive) and not self.is_mute:
                await self.say(Alive())

    async def hear(self, count: int) -> None:
        """Wait until so many messages have come in all."""
        async with asyncio.timeout(20):
            while len(self.heard) < count:
                self._hears.clear()
                await self._hears.wait()

    async def say(self, message: ToClient) -> None:
        await self._socket.send_multipart([self._client, *encode(message)])


@asynccontextmanager
async def played(*, is_mute: bool = False) -> AsyncIterator[Played]:
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.bind("tcp://127.0.0.1:0")
        manager = Played(socket, is_mute=is_mute)
        running = asyncio.create_task(manager.run())
        try:
            yield manager
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def test_a_client_that_hears_without_a_pause_says_that_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_zmq, "ALIVE_EVERY_S", 0.1)

    async def run() -> list[object]:
        async with played() as manager, ManagerLink(manager.address) as link:
            await link.meet()
            for _ in range(50):
                await manager.say(StepOutput(0, 1, b"a line\n"))
                await link.receive()
                await asyncio.sleep(0.01)
            return manager.heard

    heard = asyncio.run(run())
    assert heard.count(Alive(goes_on=True)) >= 3


def test_a_question_does_not_wait_for_the_greeting_to_be_answered() -> None:
    async def run() -> list[object]:
        async with played(is_mute=True) as manager, ManagerLink(manager.address) as link:
            asking = asyncio.create_task(link.ask(ListWorkers(), Workers))
            await manager.hear(2)
            await manager.say(Alive())
            await manager.say(Workers(()))
            await asking
            return manager.heard

    assert asyncio.run(run()) == [Alive(), ListWorkers()]


def test_all_trees_are_asked_for_at_once() -> None:
    trees = [empty_manifest(MemoryNodes()) for _ in range(3)]

    async def run() -> list[object]:
        async with played(is_mute=True) as manager, ManagerLink(manager.address) as link:
            sending = asyncio.create_task(link.send_trees(trees))
            await manager.hear(4)
            await manager.say(Alive())
            for _ in trees:
                await manager.say(Lack(()))
            await sending
            return manager.heard

    assert asyncio.run(run()) == [Alive(), *(Have((one.tree,)) for one in trees)]


def image(name: str) -> FoundImage:
    return FoundImage(name, f"sha256:{'1' * 64}", b"{}")


def test_images_are_asked_for_some_at_a_time_and_answered_in_any_order() -> None:
    names = [f"registry.example/{number}:1" for number in range(IMAGES_AT_ONCE + 2)]

    async def run() -> tuple[int, list[str | BuildError]]:
        async with played() as manager, ManagerLink(manager.address) as link:
            questions = [AskImage(name, "linux", "amd64") for name in names]
            asking = asyncio.create_task(link.ask_images(questions))
            await manager.hear(1 + IMAGES_AT_ONCE)
            await manager.say(image("registry.example/nobody-asked:1"))
            at_once = len(manager.heard) - 1
            for name in reversed(names[1:IMAGES_AT_ONCE]):
                await manager.say(image(name))
            await manager.hear(1 + len(names))
            await manager.say(NoImage(names[0], "registry-missing", "none such"))
            for name in names[IMAGES_AT_ONCE:]:
                await manager.say(image(name))
            found = await asking
            return at_once, [
                one if isinstance(one := found[name], BuildError) else one.name
                for name in names
            ]

    at_once, (missing, *found) = asyncio.run(run())
    assert at_once == IMAGES_AT_ONCE
    assert isinstance(missing, BuildError)
    assert (missing.reason, missing.detail) == ("registry-missing", "none such")
    assert found == names[1:]


def test_a_manager_that_falls_silent_is_not_said_never_to_have_been_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        async with played() as manager, ManagerLink(manager.address) as link:
            await link.meet()
            monkeypatch.setattr(link_zmq, "ANSWER_S", 0.2)
            monkeypatch.setattr(link_zmq, "ALIVE_EVERY_S", 0.05)
            manager.is_mute = True
            await link.ask(ListWorkers(), Workers)

    with pytest.raises(CutOff, match=r"does not answer any more; .*run this again"):
        asyncio.run(run())


def test_an_answer_that_takes_long_is_waited_for_while_the_manager_is_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_zmq, "ANSWER_S", 0.2)
    monkeypatch.setattr(link_zmq, "ALIVE_EVERY_S", 0.05)

    async def run() -> Usages:
        async with played() as manager, ManagerLink(manager.address) as link:
            asking = asyncio.create_task(link.ask(AskPrune(), Usages))
            await asyncio.sleep(0.6)
            await manager.say(Usages(()))
            return await asking

    assert asyncio.run(run()) == Usages(())


def test_a_manager_that_is_waited_for_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        async with (
            played(is_mute=True) as manager,
            ManagerLink(manager.address, tell=told.put_nowait) as link,
        ):
            there = f"the manager at {manager.address}"
            hearing = asyncio.create_task(link.receive())
            assert await told.get() == f"waiting for {there}"
            monkeypatch.setattr(link_zmq, "ALIVE_EVERY_S", 0.05)
            monkeypatch.setattr(link_zmq, "SILENCE_S", 0.1)
            await manager.say(Alive())
            assert await told.get() == f"nothing comes from {there}; waiting"
            await manager.say(StepOutput(0, 1, b"a line"))
            await hearing
            assert told.empty()

    asyncio.run(run())


def test_what_to_start_is_said_of_a_manager_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_zmq, "ANSWER_S", 0.1)
    own = KeyPair(PublicKey(bytes(32)), bytes(32))
    there = "tcp://127.0.0.1:1"

    async def run(address: str) -> None:
        async with ManagerLink(address, own) as link:
            await link.ask(ListWorkers(), Workers)

    for address, allow in ((there, ""), (with_key(there, b"k" * 32), " --allow FILE")):
        command = f"`filesync manager --listen {there}{allow} --state DIR`"
        with pytest.raises(ManagerLost, match=re.escape(command)):
            asyncio.run(run(address))


def test_a_managers_name_that_nobody_knows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_zmq, "ANSWER_S", 0.2)

    async def run() -> None:
        async with ManagerLink("tcp://no-such-host.invalid:7700") as link:
            await link.ask(ListWorkers(), Workers)

    with pytest.raises(UnknownHost, match=r"no-such-host\.invalid"):
        asyncio.run(run())


def test_what_was_lost_on_the_way_to_the_manager_is_to_be_sent_again_by_a_new_run() -> None:
    denied = Denied("node-missing", "the trees of context have not come")

    async def run() -> None:
        async with played() as manager, ManagerLink(manager.address) as link:
            await link.meet()
            await manager.say(denied)
            await link.ask(ListWorkers(), Workers)

    with pytest.raises(CutOff, match="have not come; what was built is kept: run it again"):
        asyncio.run(run())


def test_no_message_is_lost_when_it_comes_just_as_a_client_says_that_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_zmq, "ALIVE_EVERY_S", 0.001)
    said = [StepOutput(0, 1, b"%d" % number) for number in range(1000)]

    async def run() -> list[object]:
        async with played() as manager, ManagerLink(manager.address) as link:
            await link.meet()

            async def say() -> None:
                for message in said:
                    await manager.say(message)
                    await asyncio.sleep(0.0005)

            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                group.create_task(say())
                return [(await link.receive())[0] for _ in said]

    assert asyncio.run(run()) == said


async def broken_off(greetings: int) -> int:
    """Greet a manager over a link that breaks so many greetings off; return how many are left."""
    async with played() as manager, gateway(manager.address) as link:
        link.bad_connections = greetings
        async with ManagerLink(link.address) as client:
            await client.meet()
            return link.bad_connections


def test_a_greeting_that_is_broken_off_is_tried_again() -> None:
    assert asyncio.run(broken_off(curve_zmq.GREETINGS - 1)) == 0


def test_greetings_that_are_broken_off_each_time_may_be_for_want_of_a_key() -> None:
    with pytest.raises(
        GreetingBroken, match=r"if it uses keys, dial it with its own .*; else try again"
    ):
        asyncio.run(broken_off(1000))


def test_a_client_that_does_not_read_for_a_while_loses_no_answer(tmp_path: Path) -> None:
    asked, digests = 3000, 150
    question = encode(Have(tuple(Digest(b"%032d" % number) for number in range(digests))))

    async def main() -> list[object]:
        async with (
            open_manager("tcp://127.0.0.1:0", tmp_path / "state") as manager,
            ManagerLink(manager.address),  # somebody else, who could be sent something
        ):
            with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as socket:
                socket.linger = 0
                socket.rcvhwm = 1
                socket.rcvbuf = 4096
                socket.connect(manager.address)
                for _ in range(asked):
                    await socket.send_multipart(question)
                await asyncio.sleep(1)
                async with asyncio.timeout(20):
                    frames = [await socket.recv_multipart() for _ in range(asked)]
            return [decode_to_client(one)[0] for one in frames]

    answers = asyncio.run(main())
    assert all(isinstance(one, Lack) and len(one.trees) == digests for one in answers)


def test_a_worker_whose_connection_ends_is_gone_before_it_is_silent_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SILENCE_S", 1e9)
    hello = orders.Register(orders.VERSION, "w1", "i", {}, 1, "tcp://127.0.0.1:1", "copy")

    async def main() -> None:
        async with (
            open_manager("tcp://127.0.0.1:0", tmp_path / "state") as manager,
            ManagerLink(manager.address) as link,
        ):
            with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as worker:
                worker.connect(manager.address)
                await worker.send_multipart(orders.encode(hello))
                assert len((await link.ask(ListWorkers(at_least=1), Workers)).rows) == 1
                await asyncio.sleep(QUIET_S + 2)
                assert len((await link.ask(ListWorkers(), Workers)).rows) == 1, "only quiet"
            async with asyncio.timeout(20):
                while True:
                    if not (await link.ask(ListWorkers(), Workers)).rows:
                        return
                    await asyncio.sleep(0.1)

    asyncio.run(main())


def test_who_sends_to_a_worker_that_does_not_read_is_told_though_nobody_else_is_there(
    tmp_path: Path,
) -> None:
    hello = orders.Register(orders.VERSION, "w1", "i", {}, 1, "tcp://127.0.0.1:1", "copy")

    async def main() -> str:
        async with (
            asyncio.timeout(20),
            open_manager("tcp://127.0.0.1:0", tmp_path / "state") as manager,
        ):
            with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as socket:
                socket.linger = 0
                socket.rcvhwm = 1
                socket.rcvbuf = 4096
                socket.connect(manager.address)
                await socket.send_multipart(orders.encode(hello))
                joined = manager.replicas.shared.cluster
                await joined.wait_for_join(10)
                (worker,) = joined
                sent = Sent.UNDER_WAY
                while sent is Sent.UNDER_WAY:
                    sent = await worker.send(worker.identity, orders.Nodes(), bytes(20_000))
                with pytest.raises(OrderFailed) as caught:
                    await worker.call(orders.ReadTree(Digest(bytes(32))))
                return caught.value.reason

    assert asyncio.run(main()) == "unavailable"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x81\xa1m\xa2\xff\xfe",  # text that is no UTF-8
        b"\x81\xa1m" + b"\x91" * 100_000,
        b"\x81\xa1m\xa4have",
        b"\x81\xa1m\xa7started",
    ],
)
def test_what_is_no_message_is_refused_and_the_manager_goes_on(
    tmp_path: Path, frame: bytes
) -> None:
    async def main() -> object:
        async with (
            asyncio.timeout(20),
            open_manager("tcp://127.0.0.1:0", tmp_path / "state") as manager,
        ):
            with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as socket:
                socket.linger = 0
                socket.connect(manager.address)
                await socket.send_multipart([frame])
                denied, _ = decode_to_client(await socket.recv_multipart())
            async with ManagerLink(manager.address) as honest:
                assert (await honest.ask(ListWorkers(), Workers)).rows == ()
            return denied

    denied = asyncio.run(main())
    assert isinstance(denied, Denied)
    assert denied.code == "malformed-message"
