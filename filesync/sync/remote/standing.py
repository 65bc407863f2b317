"""What stands where a directory of a client's is to stand in another, and whether it may."""

from msgspec.structs import replace

from filesync.manifest import Manifest, Nodes
from filesync.sync.options import Choice
from filesync.sync.remote import wire
from filesync.sync.remote.asking import ask, tell
from filesync.sync.remote.nodes import fetch_nodes
from filesync.sync.target import leaves_alone
from filesync.transfer.connection.channel_zmq import Channel


async def is_left_alone(
    channel: Channel, request: wire.Prepare, choice: Choice, nodes: Nodes
) -> bool:
    """Say whether what is asked to be prepared may not be, by what is there now.

    As ``target.is_left_alone`` does on this machine.

    Args:
        channel: to the server.
        request: for a directory that is to stand in another.
        choice: what may come.
        nodes: gets what is new.
    """
    request = replace(request, dry_run=True, scan=False)
    prepared, _ = await ask(channel, request, wire.Prepared)
    if prepared.refused is not None:  # which is said when it is really asked for
        return False
    await tell(channel, wire.Drop(prepared.token))
    if not prepared.is_new:
        return False
    return leaves_alone(choice, is_there=await _is_there(channel, request, nodes))


async def _is_there(channel: Channel, request: wire.Prepare, nodes: Nodes) -> bool:
    """Say whether anything has the name of the directory."""
    request = replace(
        request,
        names=(request.inside,),
        inside=b"",
        is_directory=True,
        delete=False,
        given=None,
    )
    prepared, _ = await ask(channel, request, wire.Prepared)
    there, _ = await ask(channel, wire.Scan(prepared.token), wire.Scanned)
    await fetch_nodes(channel, prepared.token, there.tree, nodes)
    await tell(channel, wire.Drop(prepared.token))
    return bool(Manifest(there.tree, nodes).root.entries)
