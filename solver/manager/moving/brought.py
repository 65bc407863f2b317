"""How an input reaches its step, as its worker is told, and as the client is told afterwards."""

import msgspec

from filesync.trees.select import Selector
from solver.wire import InputUse
from worker.wire.images import Credential, FromRegistry, credential_for
from worker.wire.ops import GitOp, HttpOp, ImageOp
from worker.wire.orders import InputOrder, InputReport
from worker.wire.urls import FromGit, FromUrl, without_secrets


class Brought(msgspec.Struct, frozen=True):
    """How an input will reach its step; ``use`` adds what it took."""

    order: InputOrder
    source: str
    workers: tuple[str, ...] = ()
    bytes_if_layers: int = 0

    def use(self, report: InputReport) -> InputUse:
        """Return the whole story of this input, for the client."""
        return InputUse(
            report.mode,
            self.source,
            self.workers,
            report.bytes_moved,
            report.files_moved,
            self.bytes_if_layers or report.bytes_whole,
            report.seconds,
        )


def from_registry(
    op: ImageOp, credentials: tuple[Credential, ...], part: Selector | None
) -> Brought:
    """Return how an image, or a part of it, comes to whoever runs ``op``: from its registry."""
    credential = credential_for(op.repository.partition("/")[0], credentials)
    return Brought(FromRegistry(op.repository, op.manifest, credential, part), op.repository)


def from_url(op: HttpOp | GitOp) -> Brought:
    """Return how a file or a commit comes to whoever runs ``op``: from its web server."""
    order: FromUrl | FromGit
    if isinstance(op, HttpOp):
        order = FromUrl(op.url, op.name, op.checksum)
    else:
        order = FromGit(op.url, op.commit, op.subdir, op.keep_git_dir, op.ref)
    return Brought(order, without_secrets(op.url))
