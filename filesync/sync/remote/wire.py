"""What ``filesync serve`` and its clients say to each other, inside ``Call`` and ``Reply``.

To take: ``Look`` -> ``Found``, which names the parts; for each, ``Scan`` -> ``Scanned``, which
the server makes while the client scans its own side; ``AskNodes`` and ``AskNodeDeltas`` for the
directory nodes that the client lacks, from the root down, but for what ``Scanned`` has told; a session of
the data plane with the token; ``Drop``. To what is empty: a ``Scan`` that ``grows``, and until that is
answered ``AskDirectories`` -> ``Directories`` again and again, while what they list is pulled. To another a
client may ask likewise for what is ``fresh``, where the scan takes long, and pull what of that is new to it.

To give: ``Prepare`` -> ``Prepared``; ``Scan`` -> ``Scanned``, of what is there, while the client scans what it gives;
unless the two are the same, the client serves its tree over the connection (``wire.Serve``) and says ``Give``, with
what has become of the last tree that it gave, or the first nodes of this one. Meanwhile either giver may say
``Changing``. Before it answers ``Given`` the server asks the client for the other nodes that it lacks, pulls, and
says ``Progressed`` now and then if it is asked to. A client that shows what would change asks with ``AskNodes`` for
what is there, and with ``AskUnseen`` for what of it no scan shows and would be in the way; to change nothing it says
``Drop`` instead. To what is empty: ``Prepare`` -> ``Prepared``, then ``GiveGrowing`` while the client scans; the
server says ``AskDirectories`` -> ``Directories`` again and again, and pulls what they list. A client whose scan takes
long may say ``Add`` before ``Give``: the server asks likewise, for what is ``fresh``, and pulls what of it is new.

What a connection has asked for and not dropped is closed when the connection is lost.
The rules for changing this file are those of ``filesync.transfer.wire``.
"""

from typing import Annotated, Final

import msgspec

from filesync.decoding import UNDECODABLE
from filesync.digest import WireDigest
from filesync.errors import MalformedMessage
from filesync.sync.remote.fields import (
    MAX_DELTAS_BYTES,
    MAX_FIRST_NODES_BYTES,
    MAX_PATHS,
    Count,
    Digests,
    Edits,
    Errno,
    Fresh,
    Id,
    Identity,
    Kinds,
    Listed,
    ManyBegun,
    Missing,
    Name,
    Named,
    Names,
    NewOwner,
    NodeSizes,
    NumberedReasons,
    Numbers,
    OneFileSystem,
    Others,
    OwnerNames,
    Part,
    Path,
    Paths,
    Reasons,
    Rules,
    Signed,
    Tick,
    Writer,
)
from filesync.transfer.wire import Codec, Key, Token


class _Message(msgspec.Struct, frozen=True, tag_field="op"):
    pass


class Look(_Message, frozen=True, tag="look"):
    """Find what ``paths`` name below the served root. -> Found.

    Attributes:
        rules: what to leave out (see ``filter``).
        checksum: read every file.
        skip_missing: say which are not there, and go on; else that is an error.
        copies: copy what is read, and send that: it is little, and changes all the while.
        one_file_system: directories where another one is mounted come as any (0), empty (1), or not (2).
        unites: what is in directories beside each other may be one part.
        listed: nothing else of the one path comes: it stands for the names that the list begins with.
    """

    paths: Annotated[tuple[Path, ...], msgspec.Meta(min_length=1, max_length=MAX_PATHS)]
    rules: Rules = ()
    checksum: bool = False
    skip_missing: bool = False
    copies: bool = False
    one_file_system: OneFileSystem = 0
    unites: bool = False
    listed: Listed | None = None


class Found(_Message, frozen=True, tag="found"):
    """It is there; each part is still to be scanned.

    Attributes:
        missing: which of the paths, or names that a list begins with, lead nowhere, by number, and why.
        is_of_list: it is of what was ``listed``; one that does not know of it says no, and gives all.
        one_file_system: what was asked for; one that does not know of it says 0, and gives all.
    """

    parts: tuple[Part, ...]
    missing: Missing = {}
    one_file_system: OneFileSystem = 0
    is_of_list: bool = False


class Prepare(_Message, frozen=True, tag="prepare"):
    """Find, and make, what is to be given to. -> Prepared.

    Attributes:
        names: what is given, if it is names; a single one goes to ``path`` itself, unless that
            is a directory.
        inside: below the directory ``path``, in the directory of this name.
        is_directory: ``path`` is a directory, or is to be one.
        dry_run: change nothing.
        rules: what is not even looked at there; none if anything is to be removed.
        checksum: read every file.
        is_bare: nothing is in the directory that is given; if it is all that is, ``path`` is what
            it is called there, unless that is a directory.
        delete: of a directory that has one of the names, look at what is in it.
        scan: scan it at once, unless it ``is_empty``.
        goes_on: where it is refused for a reason that others need not have, say so in Prepared;
            else that is an error.
        given: the directory that is given, by device and inode, where it is all of one. A place in it
            is not empty, whatever is there: what comes to it would be given in its turn.
        owner: whose all is to be: Prepared says their numbers. It is an error if they are not known
            there, or nothing may be given to them.
        touches: no source gives ``path`` times of its own: what is made in it changes them.
        trees: directories are among the names, with all that is in them.
        mounts: tell of directories there on which another file system is mounted.
        listed: nothing else is looked at there; not if anything is to be removed.
    """

    path: Path
    names: Names = ()
    inside: Name = b""
    is_directory: bool = False
    dry_run: bool = False
    rules: Rules = ()
    checksum: bool = False
    is_bare: bool = False
    delete: bool = False
    scan: bool = False
    goes_on: bool = False
    given: Identity | None = None
    owner: OwnerNames | None = None
    touches: bool = False
    trees: bool = False
    mounts: bool = False
    listed: Listed | None = None


class Prepared(_Message, frozen=True, tag="prepared"):
    """It is there, or was or would be made (``is_new``); it may be still to be scanned.

    Attributes:
        is_empty: it is a directory with nothing in it, and may be given to while it is scanned.
        writer: who writes there, where that user cannot give files away, and the groups he is in.
        scanned: what is there, if that was asked for and it is not empty.
        refused: why it cannot be made; then nothing is prepared. Only to who goes on.
        new_owner: whom the names that were asked for are here, by number; None if they were not looked up.
        group: what is given of a group that the ``writer`` is not in has mostly got this one.
        takes_additions: ``Add`` may be said, as something is there.
        tick_ns: what times are multiples of there; see ``as_kept``.
    """

    token: Token
    is_new: bool = False
    rename: Name | None = None
    is_empty: bool = False
    writer: Writer | None = None
    scanned: "Scanned | None" = None
    refused: Errno | None = None
    new_owner: NewOwner | None = None
    group: Id | None = None
    takes_additions: bool = False
    tick_ns: Tick = 1


class Scan(_Message, frozen=True, tag="scan"):
    """Scan what was found or prepared; once. -> Scanned.

    Attributes:
        writer: say what this user, who is in these groups, is to make of all that was found: it
            is his, and of group 2^32 - 1 where it is of none of them.
        edits: say what has become of what was there at the last scan, if that is few bytes.
        grows: what was found is on offer while it is scanned, by the ``stand_in`` of ``token``, and its
            directories may be asked for.
        fresh: until this is answered, it may be asked which directories are ``fresh``, and what is in these is on
            offer by this token and its ``stand_in``.
    """

    token: Token
    writer: Writer | None = None
    edits: bool = False
    grows: bool = False
    fresh: Token | None = None


class Scanned(_Message, frozen=True, tag="scanned"):
    """What is there; its nodes may be asked for, and what was found is on offer.

    Attributes:
        tree: of the directory. If names were found, of a directory (mode 0755, of root, of 1970)
            that has them and nothing else.
        skipped: what cannot be synced, counted by kind.
        unreadable: what was left out as it cannot be read, and why; as much as goes in. Where
            something is to be given, that is directories: see ``around_shut``.
        unnamed: how many more were.
        edits: of directory nodes and small files: what makes them out of those that the asker most
            likely has; if he asked for that.
        remains: of large files: what they still have of those that he most likely has; likewise.
        of_others: some of it seems to be of a group that the asker is not in.
        mounts: directories where another file system is mounted, as many as go in; of what was found, those
            that come empty. None if nobody asked. unnamed_mounts: how many more there are.
    """

    tree: WireDigest
    skipped: Kinds = {}
    unreadable: Reasons = {}
    unnamed: Count = 0
    edits: Edits | None = None
    remains: Edits | None = None
    of_others: bool = False
    mounts: Paths | None = None
    unnamed_mounts: Count = 0


class AskNodes(_Message, frozen=True, tag="ask-nodes"):
    """Send these nodes of a scanned tree. -> Nodes, with as many of them as go in one."""

    token: Token
    digests: Digests


class Nodes(_Message, frozen=True, tag="nodes"):
    """At least one of the nodes asked for, in the payload: a pack, in no order to rely on."""


class AskNodeDeltas(_Message, frozen=True, tag="ask-node-deltas"):
    """Send these nodes of a scanned tree by what they differ from others. -> NodeDeltas.

    Attributes:
        key: what the signatures are keyed with, picked at random.
        items: each node's digest, and the signatures of the one that the asker has.
    """

    token: Token
    key: Key
    items: Signed


class NodeDeltas(_Message, frozen=True, tag="node-deltas"):
    """The first of the nodes asked for, in their order, as deltas in the payload.

    Attributes:
        sizes: of the nodes.
        raw_bytes: of the payload, decompressed.
    """

    sizes: NodeSizes
    raw_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_DELTAS_BYTES)]
    codec: Codec = Codec.RAW


class AskUnseen(_Message, frozen=True, tag="ask-unseen"):
    """Say what is there though the scan does not show it. -> Unseen.

    Attributes:
        within: directories that it shows empty: is anything in them?
        at: paths that it does not show: are they directories that it left out?
        written: directories in which something would change: can they be written? "" is the root.
    """

    token: Token
    within: Paths = ()
    at: Paths = ()
    written: Paths = ()


class Unseen(_Message, frozen=True, tag="unseen"):
    """Of which of the paths it is so, by their numbers; and why those cannot be written."""

    within: Numbers = ()
    at: Numbers = ()
    unwritable: NumberedReasons = {}


class Drop(_Message, frozen=True, tag="drop"):
    """What was found or prepared is no longer needed. -> Done."""

    token: Token


class Done(_Message, frozen=True, tag="done"):
    """It is done."""


class Give(_Message, frozen=True, tag="give"):
    """Make what was prepared and scanned hold the tree that is served. -> Given.

    Attributes:
        token: what was prepared; it is dropped when this is answered.
        served: under which the tree is served.
        delete: remove other names there; not what ``rules`` leave out, what ``others`` have,
            and what is ``spared`` in the place itself.
        progress: say Progressed.
        nodes: a pack of the tree's first nodes from the root down, which need not be asked for;
            of what is there already, too. Empty if there is none.
        goes_on: leave what is refused for one name alone as it is, and say so; else that is an
            error.
        edits: as of ``Scanned``, for what the place most likely has: what they make need not be asked for.
        remains: likewise.
        of_others: some of it seems to be of a group that who writes there is not in.
        passes_over: leave files as they are that turn out to be gone here, or to have changed, and
            say which; else that is an error.
    """

    token: Token
    served: Token
    tree: WireDigest
    delete: bool = False
    rules: Rules = ()
    others: Others = ()
    spared: Names = ()
    progress: bool = False
    nodes: Annotated[bytes, msgspec.Meta(max_length=MAX_FIRST_NODES_BYTES)] = b""
    goes_on: bool = False
    edits: Edits | None = None
    remains: Edits | None = None
    of_others: bool = False
    passes_over: bool = False


class GiveGrowing(_Message, frozen=True, tag="give-growing"):
    """Make what was prepared, and is empty, hold a tree that is still being scanned. -> Given.

    Attributes:
        token: what was prepared; it is dropped when this is answered.
        served: under which the tree is served, by the ``stand_in`` of this.
        progress: say Progressed.
        goes_on: as of ``Give``.
    """

    token: Token
    served: Token
    progress: bool = False
    goes_on: bool = False


class Add(_Message, frozen=True, tag="add"):
    """Add to what was prepared and scanned what is new of a tree that is still being scanned. -> Given.

    To be followed by ``Give``, of all of that tree. It may be answered before the scan ends.

    Attributes:
        token, served, progress: as of ``GiveGrowing``; what was prepared is kept, though.
        delete: as ``Give`` will say.
    """

    token: Token
    served: Token
    progress: bool = False
    delete: bool = False


class AskDirectories(_Message, frozen=True, tag="ask-directories"):
    """Send what is done of a tree that is being scanned, by either side. -> Directories.

    Attributes:
        fresh: just say which directories were not there, or had fewer names, at the last scan of the tree.
    """

    token: Token
    fresh: bool = False


class Directories(_Message, frozen=True, tag="directories"):
    """What was done since the last time, in the payload: a pack, each after those in it.

    Attributes:
        tree: of the whole, with the last of them, which is the root: what comes of what was
            sent when its hard-link groups are named by the rule (``manifest.links``).
        fresh: paths and trees, if that was asked for; the payload is empty then. Their nodes, and the
            contents of the files in them, may be asked for. None comes with ``tree``.
        begun: large files that are being read: path, size and mtime. What they hold may be asked for by
            what stands for it (``filesync.early``).
    """

    tree: WireDigest | None = None
    fresh: Fresh = ()
    begun: ManyBegun = ()


class Given(_Message, frozen=True, tag="given"):
    """What it took; see ``saying.stats.SyncStats``.

    Attributes:
        left_out: paths of what was given and is not there, as a directory stands in its place.
        unnamed: how many more there are.
        unwritable: directories in which nothing was changed as they cannot be written, and why;
            unnamed_unwritable: how many more there are.
        refused: names that stay as they are, as they cannot be changed, made or removed, and why;
            unnamed_refused: how many more there are. None but to who goes on.
        changed: files that are as they were, as they have changed since they were scanned;
            unnamed_changed: how many more there are. None but to who passes over them.
    """

    created: Count = 0
    deleted: Count = 0
    files: Count = 0
    content_bytes: Count = 0
    copied_bytes: Count = 0
    not_kept: Kinds = {}
    left_out: Named = ()
    unnamed: Count = 0
    unwritable: Reasons = {}
    unnamed_unwritable: Count = 0
    refused: Reasons = {}
    unnamed_refused: Count = 0
    changed: Named = ()
    unnamed_changed: Count = 0


class Changing(_Message, frozen=True, tag="changing"):
    """Giver -> who takes: a large file has changed, and will be asked for by its pieces. -> Done.

    It is still being read. Who has it may cut it meanwhile, and need not.

    Attributes:
        token: what is given to, or taken from.
        path: in the tree.
        content: what it held, as far as the giver knows.
    """

    token: Token
    path: Path
    content: WireDigest


class Progressed(_Message, frozen=True, tag="progressed"):
    """Server -> client: how far a gift has come. -> Done."""

    files: Count = 0
    content_bytes: Count = 0


Request = (
    Look
    | Prepare
    | Scan
    | AskNodes
    | AskNodeDeltas
    | AskUnseen
    | Drop
    | Give
    | GiveGrowing
    | Add
    | AskDirectories
    | Changing
    | Progressed
)
Answer = Found | Prepared | Scanned | Nodes | NodeDeltas | Unseen | Directories | Done | Given

_encoder: Final = msgspec.msgpack.Encoder()
_requests: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_answers: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """Return the body for ``message``."""
    return _encoder.encode(message)


def decode_request(body: bytes) -> Request:
    """Return the request in ``body``.

    Raises:
        MalformedMessage: it is none.
    """
    try:
        return _requests.decode(body)
    except UNDECODABLE as exc:
        raise MalformedMessage(f"not a request to a server of trees: {exc}") from exc


def decode_answer(body: bytes) -> Answer:
    """Return the answer in ``body``.

    Raises:
        MalformedMessage: it is none.
    """
    try:
        return _answers.decode(body)
    except UNDECODABLE as exc:
        raise MalformedMessage(f"not an answer of a server of trees: {exc}") from exc
