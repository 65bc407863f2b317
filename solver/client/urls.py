"""The URLs that a Dockerfile adds without a checksum, as the client learns what they give."""

from collections.abc import Callable, Mapping

import msgspec

from solver.client.link_zmq import ManagerLink
from solver.client.progress import told_if_long
from solver.client.wording import human, printable
from solver.dockerfile import Converted, unknown_remotes, with_ops
from solver.errors import BuildError
from solver.wire import AskGit, AskUrl, FoundCommit, FoundUrl
from worker.wire.ops import GitOp, HttpOp, Op
from worker.wire.urls import without_secrets

Question = AskUrl | AskGit


async def with_urls(
    converted: Converted, link: ManagerLink, tell: Callable[[str], None]
) -> Converted:
    """Have workers find out what URLs give, all at once, so that their contents decide what is built.

    ``tell`` takes sentences about what is being downloaded.

    Raises:
        BuildError: one of them gives nothing; says which line of the Dockerfile asks for it.
    """
    lacking = unknown_remotes(converted.graph)
    if not lacking:
        return converted
    questions = _questions(lacking)
    shown = ", ".join(dict.fromkeys(without_secrets(op.url) for op in lacking.values()))
    brings = any(isinstance(op, HttpOp) for op in lacking.values())
    with told_if_long(tell, f"{'downloading' if brings else 'asking'} {shown}"):
        found = await link.ask_urls([*questions.values()])
    for number, answer in sorted(found.items()):
        if isinstance(answer, BuildError):
            # Some of its words may be the server's.
            said = converted.placed(printable(str(answer)), number)
            raise BuildError(answer.reason, said) from answer
        _tell(lacking[number], answer, tell)
    ops = {at: _known(op, found[questions[_asked(op)].number]) for at, op in lacking.items()}
    return msgspec.structs.replace(converted, graph=with_ops(converted.graph, ops))


def _asked(op: HttpOp | GitOp) -> tuple[str, ...]:
    """Return what has to be asked once for all ops of which this is the same.

    A ref is the same commit wherever a Dockerfile has it, even if it moves meanwhile.
    """
    return (op.url, op.ref) if isinstance(op, GitOp) else (op.url, op.name, op.checksum)


def _questions(lacking: Mapping[int, HttpOp | GitOp]) -> dict[tuple[str, ...], Question]:
    questions: dict[tuple[str, ...], Question] = {}
    for at, op in lacking.items():
        if isinstance(op, GitOp):
            questions.setdefault(_asked(op), AskGit(at, op.url, op.ref))
        else:
            questions.setdefault(_asked(op), AskUrl(at, op.url, op.name))
    return questions


def _known(op: HttpOp | GitOp, answer: FoundUrl | FoundCommit | BuildError) -> Op:
    """Return ``op`` with the content that it is now known to mean."""
    if isinstance(op, GitOp) and isinstance(answer, FoundCommit):
        return msgspec.structs.replace(op, commit=answer.commit, ref=answer.ref)
    if isinstance(op, HttpOp) and isinstance(answer, FoundUrl):
        return msgspec.structs.replace(op, checksum=answer.checksum)
    raise BuildError("protocol", "the manager answered with something else")


def _tell(
    op: HttpOp | GitOp, answer: FoundUrl | FoundCommit, tell: Callable[[str], None]
) -> None:
    url = without_secrets(op.url)
    if isinstance(answer, FoundCommit):
        tell(f"{url}: {answer.ref or 'HEAD'} is {answer.commit}")
    elif answer.bytes_moved is not None:
        tell(f"downloaded {url}: {human(answer.bytes_moved)}, {answer.checksum}")
