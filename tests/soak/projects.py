"""Contexts with a Dockerfile whose result can be told without building it."""

import hashlib
import random
import shutil
from pathlib import Path
from typing import Final

FILES: Final = 60
BIG_BYTES: Final = 3_000_000
_DOCKERFILE: Final = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin; mkdir /usr; echo > /one; ln /one /usr/two"]
FROM base AS all
COPY src /src
RUN --mount=type=cache,target=/kept,id={cache} echo {number} >> /kept/log; \
    find /src -type f | sort | xargs cat | sha256sum > /all; rm -r /src/deep; mv /usr /usr2
FROM base AS big
RUN --mount=type=bind,source=src,target=/src sleep 0.{tenths}; sha256sum < /src/deep/big > /big
FROM base AS shared
RUN echo {shared} > /shared; mkdir /out; head -c 3000000 /dev/zero > /out/zeros
FROM all AS last
COPY --from=big /big /big
COPY --from=shared /shared /out/zeros /
RUN cat /all /big /shared > /told; test ! -e /src/deep && test -e /usr2/two
FROM scratch
COPY --from=last /told /told
"""


class Project:
    """One context below ``root``, which another round changes a little."""

    def __init__(self, root: Path, number: int, rng: random.Random) -> None:
        self.root = root
        self._rng = rng
        self._shared = number % 4
        (root / "src/deep").mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "busybox")
        text = _DOCKERFILE.format(
            number=number, cache=number % 3, shared=self._shared, tenths=rng.randrange(1, 9)
        )
        (root / "Dockerfile").write_text(text)
        self._write(range(FILES))
        self._write_big()

    def change(self) -> None:
        """Change some files of it."""
        self._write(self._rng.sample(range(FILES), FILES // 10))
        if self._rng.random() < 0.3:
            self._write_big()

    def result(self) -> str:
        """Return what ``/told`` of the result must hold."""
        files = sorted(path for path in (self.root / "src").rglob("*") if path.is_file())
        everything = hashlib.sha256(b"".join([path.read_bytes() for path in files]))
        big = hashlib.sha256((self.root / "src/deep/big").read_bytes())
        return f"{everything.hexdigest()}  -\n{big.hexdigest()}  -\n{self._shared}\n"

    def wrong(self, out: Path) -> str:
        """Return what is wrong with the result in ``out``, or nothing."""
        told = (out / "told").read_text()
        return "" if told == self.result() else f"{told!r} is not {self.result()!r}"

    def _write(self, numbers: "range | list[int]") -> None:
        for number in numbers:
            # Some are the same in several projects.
            own = self._rng.randbytes(self._rng.randrange(30_000))
            data = own if number % 3 else b"shared %d" % self._rng.randrange(3)
            (self.root / "src" / f"f{number}").write_bytes(data)

    def _write_big(self) -> None:
        (self.root / "src/deep/big").write_bytes(self._rng.randbytes(BIG_BYTES))
