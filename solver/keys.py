"""Cache keys: what identifies a step's result.

Each vertex has two. The *definition* key is its op and its inputs' definition keys: known before
anything runs. The *content* key is its op and the content digests of just what it reads of its
inputs: known when they are. Either finds the result; a result is kept under both, so an input that
was rebuilt to the same bytes never re-runs what follows it. Times and hard links are no content,
unless a step changes nothing else (``content_made_on``).
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

from filesync.digest import Digest, digest_of
from filesync.manifest import LayeredNodes, Manifest, MemoryNodes, Nodes
from filesync.trees.diff import diff
from filesync.trees.select import Selector, select
from solver.graph import Graph
from worker.wire.ops import ImageOp, Op, op_digest, selector_of

_LOGIN: Final = re.compile(r"^(https?://)[^/?#]*@", re.IGNORECASE)
KEY_VERSION: Final = b"filesync key 4\0"
"""Raised when a result's meaning changes for equal keys: old records are then never found."""


def definition_keys(graph: Graph) -> list[Digest]:
    """Return each vertex's definition key.

    An image is identified by its manifest's digest alone, wherever its layout came from.
    """
    keys: list[Digest] = []
    for vertex in graph.vertices:
        inputs = () if isinstance(vertex.op, ImageOp) else vertex.inputs
        keys.append(_key(b"definition\0", vertex.op, [keys[i] for i in inputs]))
    return keys


def content_key(op: Op, contents: Sequence[Digest]) -> Digest:
    """Return the key of ``op`` for inputs of which it reads what has ``contents``."""
    return _key(b"content\0", op, contents)


def content_made_on(trees: Sequence[Manifest]) -> Digest:
    """Return what a step reads that is made on the last of ``trees``, each of them made on the one before.

    That is its content, and what was done to times and hard links by those below that did nothing
    else: whatever follows them may be there for these.
    """
    marks = b"".join(_mark(below, tree) for below, tree in pairwise(trees))
    content = trees[-1].content
    return digest_of(KEY_VERSION + b"marks\0" + content + marks) if marks else content


def _mark(below: Manifest, tree: Manifest) -> bytes:
    """Return what the times and hard links of files say in ``tree``, if that is all that is new in it.

    The time of a directory says only that something was in it for a while.
    """
    if below.tree == tree.tree or below.content != tree.content:
        return b""
    told = b"".join(
        digest_of(msgspec.msgpack.encode((change.path, [entry for _, entry in change.changed])))
        for change in diff(below, tree)
        if change.changed
    )
    return digest_of(told) if told else b""


def url_key(url: str, name: str) -> Digest:
    """Return the key of all files that ``url`` has given under ``name``, whoever asked for them."""
    asked = _LOGIN.sub(r"\1", url)
    return digest_of(KEY_VERSION + b"url\0" + f"{asked}\0{name}".encode())


def part_read(op: Op, index: int, tree: Manifest) -> Manifest:
    """Return the subset of input ``index`` that ``op`` reads; ``tree`` itself if all of it.

    New nodes are kept in memory only.

    Raises:
        PathMissing: the op names a path that the input does not have.
    """
    selector = selector_of(op, index)
    return tree if selector is None else subset(tree, selector)


def subset(tree: Manifest, selector: Selector) -> Manifest:
    """Return what ``selector`` leaves of ``tree``; new nodes are kept in memory only.

    Raises:
        PathMissing: it names a path that is not there.
    """
    scratch: Nodes = LayeredNodes(MemoryNodes(), tree.nodes)
    return select(tree, selector, scratch)


def _key(kind: bytes, op: Op, parts: Sequence[Digest]) -> Digest:
    return digest_of(KEY_VERSION + kind + op_digest(op) + b"".join(parts))
