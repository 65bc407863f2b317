"""Both ends of a session against peers that say any messages at all, in any order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from filesync.digest import digest_of
from filesync.transfer import wire
from filesync.transfer.coding import delta, recipe
from filesync.transfer.wire import Codec, Level
from tests.fuzz import frames

contents = st.sampled_from([frames.SMALL, frames.NEW, frames.OLD]).map(digest_of)
asks = st.integers(1, 3)
offsets = st.integers(0, 200_000)
sizes = st.one_of(st.integers(1, 20), st.integers(1, wire.MAX_FRAME_BYTES))
session = st.just(frames.SESSION)
some = st.one_of(
    st.binary(min_size=1, max_size=50), st.just(frames.SMALL), st.just(bytes(5000))
)
parts = st.lists(
    st.tuples(
        st.sampled_from([4096, 5000, 20_000, 65_536]), st.binary(min_size=16, max_size=16)
    ),
    min_size=1,
    max_size=9,
).map(lambda found: recipe.pack(recipe.Recipe(0, [recipe.Part(*one) for one in found])))
ops = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 400), st.binary(max_size=9)), max_size=4
).map(
    lambda found: delta.join(
        [b"".join(delta._OP.pack(at, n, len(b)) + b for at, n, b in found)]
    )
)
ranges = st.lists(st.tuples(contents, offsets, sizes), min_size=1, max_size=5).map(tuple)
stretches = st.lists(
    st.tuples(contents, offsets, offsets, st.sampled_from(Level)), min_size=1, max_size=3
).map(tuple)
items = st.lists(
    st.tuples(contents, offsets, st.integers(1, 9999), st.integers(1, 3)),
    min_size=1,
    max_size=3,
).map(tuple)


def sized(message: type[wire.Frame] | type[wire.Deltas]) -> st.SearchStrategy[frames.Said]:
    """Mostly of the length that they say."""
    ask = () if message is wire.Frame else (asks,)
    payload = some if message is wire.Frame else ops.filter(len)
    return payload.flatmap(
        lambda data: st.tuples(
            st.builds(
                message, session, *ask, st.just(len(data)) | sizes, st.sampled_from(Codec)
            ),
            st.just(data),
        )
    )


said: st.SearchStrategy[frames.Said] = st.one_of(
    sized(wire.Frame),
    sized(wire.Deltas),
    st.tuples(st.builds(wire.Recipes, session, asks), parts | some),
    st.tuples(st.builds(wire.Opened, session), st.just(b"")),
    st.tuples(st.builds(wire.Want, session, ranges), st.just(b"")),
    st.tuples(st.builds(wire.AskRecipes, session, asks, stretches), st.just(b"")),
    st.tuples(st.builds(wire.AskDeltas, session, asks, offsets, items), st.binary(min_size=6)),
    st.tuples(st.builds(wire.Refuse, session, st.text(max_size=9)), st.just(b"")),
)


honest = frames.honest()


@settings(max_examples=300)
@given(st.integers(0, len(honest)), st.lists(said | st.sampled_from(honest), max_size=6))
def test_any_messages_are_taken_or_a_breach(count: int, messages: list[frames.Said]) -> None:
    """After as many as ``count`` of an honest sender's."""
    frames.fuzz(frames.joined(*honest[:count], *messages))
