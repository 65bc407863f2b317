"""The instructions that change the image's configuration, and WORKDIR."""

from typing import Final

from solver.dockerfile import history
from solver.dockerfile.errors import Invalid
from solver.dockerfile.flags import parse_flags
from solver.dockerfile.image import Health
from solver.dockerfile.ports import parse_ports, unpublished
from solver.dockerfile.quantities import parse_duration
from solver.dockerfile.signals import check_signal
from solver.dockerfile.state import State
from solver.dockerfile.syntax import Instruction, check_trigger
from worker.wire.ops import FileOp, MakeDirectory

_MIN_DURATION_NS: Final = 10**6
_MAX_EXPOSED: Final = 1 << 19


def apply_env(state: State, instruction: Instruction) -> None:
    """Apply ENV; every value sees what was set before the instruction."""
    pairs = _pairs(state, instruction)
    for name, value in pairs:
        state.variables.set_env(name, value)
    state.write_env()
    state.commit("ENV " + " ".join(f"{name}={value}" for name, value in pairs))


def apply_label(state: State, instruction: Instruction) -> None:
    """Apply LABEL."""
    pairs = _pairs(state, instruction)
    labels = dict(state.image.config.labels or {})
    for name, value in pairs:
        if not name:
            raise Invalid("the name of a label cannot be empty")
        labels[name] = value
    state.image.config.labels = labels
    state.commit("LABEL " + " ".join(f"{name}={value}" for name, value in pairs))


def apply_arg(state: State, instruction: Instruction) -> None:
    """Apply ARG: a value given by the user, else its default, else the global one."""
    _require(instruction)
    shown = []
    for word in instruction.args:
        name, equals, default = word.partition("=")
        value: str | None
        if name in state.around.options.build_args:
            value = state.around.options.build_args[name]
        elif equals:
            value = state.expand(default)
        else:
            value = state.around.global_args.get(name)
        state.variables.declare(name, value)
        state.asked.add(name)
        shown.append(name if value is None else f"{name}={value}")
    state.commit("ARG " + " ".join(shown))


def apply_workdir(state: State, instruction: Instruction) -> None:
    """Apply WORKDIR: the directory is made, owned by the user of the moment."""
    path = state.absolute(state.expand(_one(instruction)))
    state.image.config.working_dir = path
    if path != "/":
        action = MakeDirectory(path, owner=state.image.config.user)
        op = FileOp((action,), scratch=state.vertex is None)
        shown = state.around.words.show(instruction.original, state.variables)
        state.add(op, (), instruction=instruction, shown=shown)
    state.commit(f"WORKDIR {path}", layer=path != "/")


def apply_user(state: State, instruction: Instruction) -> None:
    """Apply USER."""
    user = state.expand(_one(instruction))
    state.image.config.user = user
    state.commit(f"USER {user}")


def apply_cmd(state: State, instruction: Instruction) -> None:
    """Apply CMD."""
    state.image.config.cmd = _command(state, instruction)
    state.cmd_is_set = True
    state.commit(f"CMD {history.quoted_list(state.image.config.cmd)}")


def apply_entrypoint(state: State, instruction: Instruction) -> None:
    """Apply ENTRYPOINT; a CMD that comes from the base does not fit it and goes."""
    command = _command(state, instruction)
    state.image.config.entrypoint = command
    if not state.cmd_is_set:
        state.image.config.cmd = None
    state.commit(f"ENTRYPOINT {history.quoted_list(command)}")


def apply_shell(state: State, instruction: Instruction) -> None:
    """Apply SHELL."""
    if not instruction.json or not instruction.args:
        raise Invalid('SHELL is followed by a JSON array, such as ["/bin/bash", "-c"]')
    state.image.config.shell = list(instruction.args)
    state.commit(f"SHELL {history.plain_list(instruction.args)}")


def apply_expose(state: State, instruction: Instruction) -> None:
    """Apply EXPOSE."""
    _require(instruction)
    words: list[str] = []
    for arg in instruction.args:
        words += state.around.words.split(arg, state.variables)
    ports = parse_ports(words)
    for word in words:
        if (port := unpublished(word)) != word:
            note = f"EXPOSE {word}: where a port is published is said with docker run -p;"
            state.around.warn(instruction.line, f"{note} this is EXPOSE {port}")
    state.exposed += len(ports)
    if state.exposed > _MAX_EXPOSED:
        raise Invalid(f"more than {_MAX_EXPOSED} ports are listed")
    exposed: dict[str, dict[str, object]] = {port: {} for port in ports}
    state.image.config.exposed_ports = (state.image.config.exposed_ports or {}) | exposed
    state.commit(f"EXPOSE {history.plain_list(sorted(ports))}")


def apply_volume(state: State, instruction: Instruction) -> None:
    """Apply VOLUME."""
    _require(instruction)
    volumes = state.expand_all(tuple(arg.strip() for arg in instruction.args))
    if not all(volumes):
        raise Invalid("a VOLUME cannot be empty")
    added: dict[str, dict[str, object]] = {volume: {} for volume in volumes}
    state.image.config.volumes = (state.image.config.volumes or {}) | added
    state.commit(f"VOLUME {history.plain_list(volumes)}")


def apply_stopsignal(state: State, instruction: Instruction) -> None:
    """Apply STOPSIGNAL."""
    signal = state.expand(_one(instruction))
    check_signal(signal)
    state.image.config.stop_signal = signal
    state.commit(f"STOPSIGNAL {signal}")


def apply_maintainer(state: State, instruction: Instruction) -> None:
    """Apply MAINTAINER."""
    state.image.author = _one(instruction)
    message = 'MAINTAINER is deprecated; use LABEL org.opencontainers.image.authors="…"'
    state.around.warn(instruction.line, message)
    state.commit(f"MAINTAINER {state.image.author}")


def apply_onbuild(state: State, instruction: Instruction) -> None:
    """Apply ONBUILD: kept as text for those who build on this image."""
    trigger = trigger_of(instruction)
    state.image.config.on_build = [*(state.image.config.on_build or ()), trigger]


def trigger_of(instruction: Instruction) -> str:
    """Return the text that an ONBUILD keeps.

    Raises:
        Invalid: nothing that may be kept.
    """
    trigger = instruction.original[len("ONBUILD") :].strip()
    if not trigger:
        raise Invalid("ONBUILD needs an instruction")
    check_trigger(trigger.split()[0].upper())
    return trigger


def apply_healthcheck(state: State, instruction: Instruction) -> None:
    """Apply HEALTHCHECK."""
    if not instruction.args:
        raise Invalid("HEALTHCHECK is followed by CMD or NONE")
    kind, *command = instruction.args
    durations_ns = _durations(instruction)
    retries = _retries(parse_flags(instruction).text("retries"))
    match kind.upper():
        case "NONE" if not command:
            test, durations_ns, retries = ["NONE"], dict.fromkeys(durations_ns, 0), 0
        case "NONE":
            raise Invalid("HEALTHCHECK NONE takes nothing else")
        case "CMD" if command:
            test = ["CMD" if instruction.json else "CMD-SHELL", *command]
        case "CMD":
            raise Invalid("HEALTHCHECK CMD needs a command")
        case _:
            raise Invalid(f"HEALTHCHECK is followed by CMD or NONE, not {kind[:80]}", kind)
    state.image.config.healthcheck = Health(
        test=test,
        interval=durations_ns["Interval"],
        timeout=durations_ns["Timeout"],
        start_period=durations_ns["StartPeriod"],
        start_interval=durations_ns["StartInterval"],
        retries=retries,
    )
    state.commit(f"HEALTHCHECK {history.health(test, durations_ns.values(), retries)}")


def _durations(instruction: Instruction) -> dict[str, int]:
    flags = parse_flags(instruction)
    durations_ns = {}
    for name, flag in (
        ("Interval", "interval"),
        ("Timeout", "timeout"),
        ("StartPeriod", "start-period"),
        ("StartInterval", "start-interval"),
    ):
        text = flags.text(flag)
        durations_ns[name] = parse_duration(text) if text else 0
        if 0 < durations_ns[name] < _MIN_DURATION_NS:
            raise Invalid(f"--{flag} cannot be less than 1ms", text)
    return durations_ns


def _retries(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise Invalid(f"--retries is a number, not {text[:80]!r}", text)
    return int(text)


def _command(state: State, instruction: Instruction) -> list[str]:
    if instruction.json:
        return list(instruction.args)
    _require(instruction)
    return [*state.image.shell, " ".join(instruction.args)]


def _pairs(state: State, instruction: Instruction) -> list[tuple[str, str]]:
    _require(instruction)
    names, values = instruction.args[::3], instruction.args[1::3]
    return [
        (state.expand(name), state.expand(value))
        for name, value in zip(names, values, strict=True)
    ]


def _require(instruction: Instruction) -> None:
    if not instruction.args:
        raise Invalid(f"{instruction.keyword} needs at least one argument")


def _one(instruction: Instruction) -> str:
    if len(instruction.args) != 1:
        raise Invalid(f"{instruction.keyword} needs exactly one argument")
    return instruction.args[0]
