"""Git repositories as a manager deals with them: it has workers ask, and fetch, and never does so itself."""

import pytest

from solver.errors import OrderFailed
from solver.graph import Graph, Vertex
from solver.manager.urls import find_commit
from solver.wire import AskGit, FoundCommit
from tests.unit.solver.fakes import World
from worker.wire.ops import GitOp
from worker.wire.orders import Failed, Finished
from worker.wire.urls import FromGit, GitFound, ResolveGit

COMMIT = "1" * 40
URL = "https://me:hunter2@example.org/a.git"
OP = GitOp(URL, COMMIT, "docs", ref="refs/heads/main")
QUESTION = AskGit(7, URL, "main")


async def test_a_ref_is_asked_for_by_a_worker(world: World) -> None:
    worker = world.worker("a")
    worker.says.append(GitFound(COMMIT, "refs/heads/main"))
    found = await find_commit(world.shared.cluster, QUESTION)
    assert found == FoundCommit(7, COMMIT, "refs/heads/main")
    assert worker.orders == [ResolveGit(URL, "main")]


@pytest.mark.parametrize("code", ["git-missing", "registry-unavailable", "store"])
async def test_a_ref_that_one_worker_cannot_ask_for_is_asked_for_by_another(
    world: World, code: str
) -> None:
    first, second = world.worker("a"), world.worker("b")
    first.says.append(Failed(code, "no"))
    second.says.append(GitFound(COMMIT))
    assert (await find_commit(world.shared.cluster, QUESTION)).commit == COMMIT


async def test_a_servers_no_is_final(world: World) -> None:
    first, second = world.worker("a"), world.worker("b")
    first.says.append(Failed("git-ref-missing", "no branch"))
    second.says.append(GitFound(COMMIT))
    with pytest.raises(OrderFailed, match="no branch"):
        await find_commit(world.shared.cluster, QUESTION)


async def test_a_worker_that_answers_something_else_is_not_believed(world: World) -> None:
    world.worker("a").says.append(Finished())
    with pytest.raises(OrderFailed, match="something else"):
        await find_commit(world.shared.cluster, QUESTION)


async def test_a_commit_is_fetched_once_whatever_it_is_fetched_from(world: World) -> None:
    world.worker("a")
    client = world.client()
    await world.build(Graph((Vertex(OP, (), "fetch"),), 0), client)
    assert world.registries == [FromGit(URL, COMMIT, "docs", ref="refs/heads/main")]
    (use,) = client.done()[0].inputs
    assert use.source == "https://xxxxx:xxxxx@example.org/a.git"
    other = GitOp("https://example.org/b.git", COMMIT, "docs")
    await world.build(Graph((Vertex(other, (), "fetch"),), 0))
    await world.build(Graph((Vertex(other, (), "fetch", ignore_cache=True),), 0))
    assert len(world.registries) == 1
