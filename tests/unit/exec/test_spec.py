import dataclasses
import json
from pathlib import Path

from worker.exec.launch import command_line, in_memory_of, staging_of
from worker.exec.operation import network_files
from worker.exec.output import MAX_TAIL_BYTES, OutputTail
from worker.exec.spec import (
    Bind,
    Config,
    ContainerSpec,
    SecretFile,
    Throwaway,
    Tmpfs,
    config_of,
)
from worker.exec.user import User
from worker.wire.ops import Network

BUNDLE = Path("/b")
SPEC = ContainerSpec(
    args=("sh", "-c", "true"),
    root=Path("/snapshots/7"),
    root_identity=(1, 2),
    env=(("A", "1"), ("B", "x=y")),
    cwd="/src",
    user=User(1000, 50, (6, 10)),
    hostname="box",
    shown=(
        Bind(Path("/in/a,b:c"), "/ro", (3, 4)),
        Throwaway(Path("/in/w"), "/rw", (5, 6)),
        Tmpfs("/t", 4096),
        Bind(Path("/cache"), "/c", (7, 8), read_only=False),
    ),
)


def test_process_is_what_the_spec_says() -> None:
    process = config_of(SPEC, BUNDLE)["process"]
    assert process["args"] == ["sh", "-c", "true"]
    assert process["env"] == ["A=1", "B=x=y"]
    assert process["cwd"] == "/src"
    assert process["user"] == {
        "uid": 1000,
        "gid": 50,
        "umask": 0o022,
        "additionalGids": [50, 6, 10],
    }
    assert process["terminal"] is False
    assert "oomScoreAdj" not in process


def test_no_container_can_make_device_nodes_mount_or_hear_its_network() -> None:
    capabilities = config_of(SPEC, BUNDLE)["process"]["capabilities"]
    assert set(capabilities) == {"bounding", "effective", "permitted"}
    for kind in capabilities.values():
        assert not {"CAP_MKNOD", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"} & set(kind)


def test_a_filter_names_all_whose_programs_the_machine_runs() -> None:
    def filter_of(machine: str) -> Config:
        spec = dataclasses.replace(SPEC, machine=machine)
        found: Config = config_of(spec, BUNDLE)["linux"]["seccomp"]
        return found

    assert "SCMP_ARCH_X86" in filter_of("x86_64")["architectures"]
    assert "architectures" not in filter_of("riscv64")
    clone = [rule for rule in filter_of("s390x")["syscalls"] if rule["names"] == ["clone"]]
    assert clone[0]["args"][0]["index"] == 1


def test_network_none_is_a_namespace_of_its_own() -> None:
    def kinds(network: Network) -> list[str]:
        spec = ContainerSpec(args=("a",), root=BUNDLE, root_identity=(0, 0), network=network)
        return [space["type"] for space in config_of(spec, BUNDLE)["linux"]["namespaces"]]

    assert kinds(Network.HOST) == ["pid", "ipc", "uts", "mount"]
    assert kinds(Network.NONE) == ["pid", "ipc", "uts", "mount", "network"]


def test_config_names_nothing_of_the_host_but_its_bundle() -> None:
    config = config_of(SPEC, BUNDLE)
    assert config["root"] == {"path": "/b/rootfs"}
    assert config["mounts"][-4:] == [
        {
            "destination": "/ro",
            "type": "bind",
            "source": "/b/mounts/0",
            "options": ["bind", "nodev", "ro"],
        },
        {
            "destination": "/rw",
            "type": "bind",
            "source": "/b/mounts/1",
            "options": ["bind", "nodev", "rw"],
        },
        {
            "destination": "/t",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=1777", "size=4096"],
        },
        {
            "destination": "/c",
            "type": "bind",
            "source": "/b/mounts/3",
            "options": ["bind", "nodev", "rw"],
        },
    ]
    text = json.dumps(config)
    assert not any(path in text for path in ("/in/", "/cache", "/snapshots"))


def test_limits_do_not_exceed_the_workers_own() -> None:
    spec = ContainerSpec(args=("a",), root=BUNDLE, root_identity=(0, 0), max_open_files=100)
    limits = config_of(spec, BUNDLE)["process"]["rlimits"]
    assert limits == [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]


def test_each_source_is_staged_with_what_it_must_be() -> None:
    words = staging_of(SPEC)
    assert [words[n : n + 5] for n in range(0, len(words), 5)] == [
        ["none", "bind,nodev", "/snapshots/7", "rootfs", "1:2"],
        ["none", "bind,nodev,ro", "/in/a,b:c", "mounts/0", "3:4"],
        ["none", "bind,nodev,ro", "/in/w", "lower/1", "5:6"],
        [
            "overlay",
            "nodev,lowerdir=lower/1,upperdir=upper/1,workdir=work/1",
            "overlay",
            "mounts/1",
            "",
        ],
        ["none", "bind,nodev", "/cache", "mounts/3", "7:8"],
    ]


def test_a_secret_is_staged_in_memory_and_its_data_is_in_no_words() -> None:
    secrets = (
        SecretFile("/run/secrets/a", b"horse", 0o440, 7, 8),
        Tmpfs("/t"),
        SecretFile("/b", b"staple"),
    )
    spec = ContainerSpec(args=("a",), root=BUNDLE, root_identity=(0, 0), shown=secrets)
    in_memory = in_memory_of(spec, BUNDLE)
    words = staging_of(spec, in_memory)
    assert [words[n : n + 5] for n in range(5, len(words), 5)] == [
        ["tmpfs", "mode=0700,nosuid,nodev,noexec", "tmpfs", "secrets", ""],
        ["secret", "440", "5", "secrets/0", "7:8"],
        ["secret", "400", "6", "secrets/2", "0:0"],
    ]
    assert [file.data for file in in_memory] == [b"horse", b"staple"]
    config = config_of(spec, BUNDLE)
    assert config["mounts"][-1] == {
        "destination": "/b",
        "type": "bind",
        "source": "/b/secrets/2",
        "options": ["bind", "nodev", "nosuid", "noexec", "ro"],
    }
    text = f"{words} {config} {spec} {in_memory}"
    assert "horse" not in text
    assert "staple" not in text


def test_with_a_secret_in_the_environment_the_configuration_is_in_memory_and_in_no_words() -> (
    None
):
    spec = ContainerSpec(
        args=("a",),
        root=BUNDLE,
        root_identity=(0, 0),
        env=(("A", "a"), ("T", "b")),
        secret_env=(("T", "first"), ("U", ""), ("T", "horse")),
    )
    (config,) = in_memory = in_memory_of(spec, BUNDLE)
    assert json.loads(config.data)["process"]["env"] == ["A=a", "T=horse", "U="]
    words = staging_of(spec, in_memory)
    assert words[-5:] == ["secret", "400", str(len(config.data)), "secrets/config.json", "0:0"]
    assert "horse" not in f"{words} {spec} {in_memory}"


def test_program_follows_the_staging() -> None:
    words = command_line(["crun", "run"], ["a", "b"], log="log")
    assert words[-6:] == ["log", "a", "b", "--", "crun", "run"]


def test_hosts_name_the_container() -> None:
    files = network_files("box", b"nameserver 1.2.3.4\n")
    assert files["hostname"] == b"box\n"
    assert b"127.0.0.1\tlocalhost box\n" in files["hosts"]
    assert files["resolv.conf"] == b"nameserver 1.2.3.4\n"


def test_tail_keeps_the_last_lines_of_both_streams_and_passes_all_on() -> None:
    seen: list[tuple[int, bytes]] = []
    tail = OutputTail(lambda stream, data: seen.append((stream, data)))
    for n in range(30):
        tail(1 + n % 2, b"line %d\n" % n)
    assert tail.text().splitlines() == [f"line {n}" for n in range(10, 30)]
    assert len(seen) == 30


def test_tail_is_bounded_where_there_are_no_lines() -> None:
    tail = OutputTail()
    for _ in range(10):
        tail(1, b"\xff" * MAX_TAIL_BYTES)
    assert len(tail.text()) == MAX_TAIL_BYTES
