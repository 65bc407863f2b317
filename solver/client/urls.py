"""The URLs that a Dockerfile adds without a checksum, as the client learns what they give."""

from collections.abc import Callable
from dataclasses import replace

from solver.client.link_zmq import ManagerLink
from solver.client.progress import human, printable, told_if_long
from solver.dockerfile import Converted, unknown_files, with_checksums
from solver.errors import BuildError
from solver.wire import AskUrl
from worker.wire.urls import without_secrets


async def with_urls(
    converted: Converted, link: ManagerLink, tell: Callable[[str], None]
) -> Converted:
    """Have workers find out what URLs give, all at once, so that their contents decide what is built.

    ``tell`` takes sentences about what is being downloaded.

    Raises:
        BuildError: one of them gives nothing; says which line of the Dockerfile asks for it.
    """
    files = unknown_files(converted.graph)
    if not files:
        return converted
    shown = ", ".join(dict.fromkeys(without_secrets(op.url) for op in files.values()))
    with told_if_long(tell, f"downloading {shown}"):
        found = await link.ask_urls([AskUrl(at, op.url, op.name) for at, op in files.items()])
    checksums: dict[int, str] = {}
    for position, answer in sorted(found.items()):
        if isinstance(answer, BuildError):
            # Some of its words may be the server's.
            said = converted.placed(printable(str(answer)), position)
            raise BuildError(answer.reason, said) from answer
        checksums[position] = answer.checksum
        if answer.bytes_moved is not None:
            url = without_secrets(files[position].url)
            tell(f"downloaded {url}: {human(answer.bytes_moved)}, {answer.checksum}")
    return replace(converted, graph=with_checksums(converted.graph, checksums))
