"""What an ordinary user may do: checks that run as one, in a child of a test that runs as root."""

import os
import traceback
from collections.abc import Callable

NOBODY = 65534


def as_nobody(check: Callable[[], None]) -> None:
    """Run ``check`` in a child that is an ordinary user."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
