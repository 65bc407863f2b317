"""RUN: a command on the stage's tree."""

import posixpath
from collections.abc import Mapping
from typing import Final

import msgspec

from solver.dockerfile.errors import Invalid
from solver.dockerfile.flags import Flags, parse_flags
from solver.dockerfile.mounts import MountWords, parse_mount
from solver.dockerfile.state import State
from solver.dockerfile.suggestion import did_you_mean
from solver.dockerfile.syntax import Heredoc, Instruction, is_heredoc
from solver.dockerfile.variables import proxy_pairs
from worker.wire.ops import (
    BindMount,
    CacheMount,
    ExecOp,
    Mount,
    Network,
    SecretMount,
    Sharing,
    SshMount,
    TmpfsMount,
)

_PIPES: Final = "/dev/pipes"
_AGENTS: Final = "/run/buildkit/ssh_agent"
"""Where BuildKit shows an agent's socket, with a dot and its number behind."""
_MASK: Final = "****"
"""What a step's name has, as with BuildKit, for a variable that is a secret."""
NETWORKS: Final = {"default": Network.HOST, "host": Network.HOST, "none": Network.NONE}


class _Command(msgspec.Struct, frozen=True):
    """What is run: its arguments and the scripts it needs."""

    args: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()


def apply_run(state: State, instruction: Instruction) -> None:
    """Apply RUN: one exec op; each ``--mount`` one of its mounts.

    Raises:
        Invalid: it cannot be done, or not yet.
    """
    flags = parse_flags(instruction)
    _check_supported(flags)
    command = _command(state, instruction)
    scratch = state.vertex is None
    mounts, sources = _mounts(state, flags, first_input=0 if scratch else 1)
    env = state.variables.pairs()
    proxies = proxy_pairs(state.around.options.build_args)
    op = ExecOp(
        args=command.args,
        env=env,
        cwd=state.image.working_dir,
        user=state.image.config.user,
        mounts=mounts,
        network=_network(state, flags),
        files=command.files,
        proxy_env=tuple(pair for pair in proxies if pair[0] not in state.variables),
        scratch=scratch,
    )
    shown = state.around.words.show(_shown(instruction), _masked(state.variables, mounts))
    state.add(op, sources, instruction=instruction, shown=shown)
    state.commit(_created_by(state, command), layer=True)


def mount_origins(instruction: Instruction) -> tuple[str, ...]:
    """Return what a RUN's mounts show, but for the main context.

    Raises:
        Invalid: a mount that cannot be.
    """
    mounts = (parse_mount(text) for text in parse_flags(instruction).texts("mount"))
    return tuple(mount.origin for mount in mounts if mount.origin)


def _check_supported(flags: Flags) -> None:
    if flags.text("security") not in ("", "sandbox"):
        security = flags.text("security")
        raise Invalid(f"RUN --security={security} is not supported yet", "--security")
    if flags.texts("device"):
        raise Invalid("RUN --device is not supported yet", "--device")


def _network(state: State, flags: Flags) -> Network:
    word = state.expand(flags.text("network")) or "default"
    if word not in NETWORKS:
        guess = did_you_mean(word, NETWORKS)
        raise Invalid(f"--network is default, host or none, not {word[:80]!r}{guess}", word)
    return NETWORKS[state.around.options.network if word == "default" else word]


def _command(state: State, instruction: Instruction) -> _Command:
    if instruction.json:
        if not instruction.args:
            raise Invalid("RUN needs a command")
        return _Command(instruction.args)
    text = " ".join(instruction.args)
    if not text:
        raise Invalid("RUN needs a command")
    shell = state.image.shell
    if not instruction.heredocs:
        return _Command((*shell, text))
    if is_heredoc(text):
        return _scripted(shell, instruction.heredocs[0])
    bodies = "".join(f"\n{heredoc.raw}{heredoc.name}" for heredoc in instruction.heredocs)
    return _Command((*shell, text + bodies))


def _scripted(shell: tuple[str, ...], heredoc: Heredoc) -> _Command:
    if not heredoc.content.startswith("#!"):
        return _Command((*shell, heredoc.content))
    if "/" in heredoc.name or heredoc.name in (".", ".."):
        raise Invalid(f"{heredoc.name!r} cannot name a script", heredoc.name)
    path = f"{_PIPES}/{heredoc.name}"
    return _Command((*shell, path), files=((heredoc.name, heredoc.content),))


def _mounts(
    state: State, flags: Flags, *, first_input: int
) -> tuple[tuple[Mount, ...], tuple[int, ...]]:
    """Return the mounts and the vertices they read, numbered from ``first_input``."""
    mounts: list[Mount] = []
    sources: list[int] = []
    for text in flags.texts("mount"):
        words = _expanded(state, parse_mount(text))
        if words.type == "ssh":
            before = sum(isinstance(mount, SshMount) for mount in mounts)
            mounts.append(_agent(state, words, before))
            continue
        if words.type != "bind":
            mounts.append(_own_mount(state, words))
            continue
        vertex = state.source(words.origin, asked_by="RUN --mount=from=")
        if vertex not in sources:
            sources.append(vertex)
        mounts.append(
            BindMount(
                target=_target(state, words),
                input=first_input + sources.index(vertex),
                source=posixpath.normpath("/" + words.text("source").lstrip("/")),
                writable=words.is_writable(by_default=False),
            )
        )
    return tuple(mounts), tuple(sources)


def _expanded(state: State, words: MountWords) -> MountWords:
    values = {
        key: value if key == "from" else state.expand(value)
        for key, value in words.values.items()
    }
    return MountWords(words.type, values)


def _target(state: State, words: MountWords) -> str:
    return _absolute(state, words.clean_target())


def _absolute(state: State, path: str) -> str:
    target = state.absolute(path)
    if target == "/":
        raise Invalid("--mount: the target cannot be '/'")
    return target


def _own_mount(state: State, words: MountWords) -> Mount:
    writable = words.is_writable(by_default=True)
    if words.type == "tmpfs":
        return TmpfsMount(_target(state, words), words.size_bytes())
    if words.type == "secret":
        return _secret(state, words)
    return CacheMount(
        target=_target(state, words),
        id=words.text("id") or words.clean_target(),
        sharing=_sharing(words),
        mode=words.number("mode", default=0o755, base=8),
        uid=words.number("uid", default=0),
        gid=words.number("gid", default=0),
        read_only=not writable,
    )


def _agent(state: State, words: MountWords, number: int) -> SshMount:
    words.is_writable(by_default=True)  # for what it refuses: a socket is what it is
    target = words.text("target") or f"{_AGENTS}.{number}"
    return SshMount(
        target=_absolute(state, posixpath.normpath(target)),
        id=words.text("id") or "default",
        mode=words.number("mode", default=0o600, base=8),
        uid=words.number("uid", default=0),
        gid=words.number("gid", default=0),
        required=bool(words.is_set("required")),
    )


def _secret(state: State, words: MountWords) -> SecretMount:
    name, target = words.secret()
    return SecretMount(
        target=_absolute(state, target) if target else "",
        id=name,
        mode=words.number("mode", default=0o400, base=8),
        uid=words.number("uid", default=0),
        gid=words.number("gid", default=0),
        required=bool(words.is_set("required")),
        env=words.env,
    )


def _sharing(words: MountWords) -> Sharing:
    text = words.text("sharing").lower() or "shared"
    if text not in list(Sharing):
        guess = did_you_mean(text, list(Sharing))
        raise Invalid(
            f"--mount: sharing is shared, private or locked, not {text[:80]!r}{guess}", text
        )
    return Sharing(text)


def _masked(variables: Mapping[str, str], mounts: tuple[Mount, ...]) -> Mapping[str, str]:
    secret = {m.env: _MASK for m in mounts if isinstance(m, SecretMount) and m.env}
    return {**variables, **secret} if secret else variables


def _shown(instruction: Instruction) -> str:
    _, space, rest = instruction.original.partition(" ")
    shown = f"{instruction.keyword}{space}{rest}"
    if instruction.heredocs and is_heredoc(" ".join(instruction.args)):
        lines = instruction.heredocs[0].content.strip().splitlines() or [""]
        more = "..." if len(lines) > 1 else ""
        return f"{shown} ({lines[0]}{more})"
    return shown


def _created_by(state: State, command: _Command) -> str:
    args = state.variables.declared_pairs()
    prefix = [f"|{len(args)}", *args] if args else []
    return " ".join(["RUN", *prefix, *command.args]) + " # buildkit"
