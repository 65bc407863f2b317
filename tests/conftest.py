"""What all tests share: hypothesis profiles, `needs`, coroutines, and runs in which nothing may be skipped."""

import asyncio
import inspect
import os
import shutil
import signal
from typing import Final

import pytest
from hypothesis import settings

from tests import forked

settings.register_profile("quick", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("deep", deadline=None, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

NO_SKIPS: Final = os.environ.get("FILESYNC_NO_SKIPS", "") not in ("", "0")
SEARCH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PACKAGES: Final = {
    "busybox": "busybox-static",
    "htpasswd": "apache2-utils",
    "ip": "iproute2",
    "tc": "iproute2",
}
"""Debian packages that are not called what their program is called."""

SKIPPED: Final = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    # The tests start thousands of processes, each of which compiles all that it imports again,
    # half of its start, unless one before it may have left what it compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # As a background job of a script it would be ignored, also by what the tests start.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):  # one of several processes that run tests
        forked.install()
    config.stash[SKIPPED] = []
    config.pluginmanager.register(SkipKeeper(config.stash[SKIPPED]), "skip-keeper")


def lacking(need: str) -> str | None:
    """Return a sentence on why ``need`` is not met and what to do, or None if it is.

    A need is ``root`` or the name of a program.
    """
    if need == "root":
        return None if os.geteuid() == 0 else "not root: run the tests as root"
    if shutil.which(need, path=SEARCH):
        return None
    return f"{need} is not installed: apt-get install {PACKAGES.get(need, need)}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test; with hypothesis or without it the others are pytest's own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for need in marker.args:
            if sentence := lacking(need):
                pytest.skip(sentence)


class SkipKeeper:
    """Keeps what was skipped, and why; an expected failure is not a skip."""

    def __init__(self, skipped: list[str]) -> None:
        self._skipped = skipped

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._keep(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._keep(report)

    def _keep(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        self._skipped.append(f"{report.nodeid}: {why}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if NO_SKIPS and session.config.stash[SKIPPED] and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skipped = config.stash[SKIPPED]
    if NO_SKIPS and skipped:
        terminalreporter.section("skipped, and FILESYNC_NO_SKIPS is set", red=True, bold=True)
        for line in skipped:
            terminalreporter.write_line(line)
