"""Runs one target under atheris: ``python -m tests.fuzz.run TARGET [libFuzzer's arguments]``."""

import random
import resource
import sys
from importlib import import_module
from typing import Final

import atheris

MEMORY_BYTES: Final = 2 << 30
"""Address space: an allocation that an input claims and that is not checked ends the run."""


def main() -> None:
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["filesync", "worker", "solver"]):
        target = import_module(f"tests.fuzz.{name}")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        def mutate(part: bytes) -> bytes:
            return bytes(atheris.Mutate(part, len(part) + 64))

        made: bytes = target.mutated(data, random.Random(seed), mutate)
        return made[:max_size]

    atheris.Setup(sys.argv, target.fuzz, custom_mutator=mutated)
    atheris.Fuzz()


main()
