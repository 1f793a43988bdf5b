"""`python -m paredown.deploy.leash PARENT COMMAND...`: a command that ends when its parent does.

The kernel sends it SIGTERM when the parent is gone, however that ended, so that a killed paredown
leaves no server behind. Only Linux has this; elsewhere the command is run as it is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: str, *command: str) -> None:
    """Become `command`; never returns."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it was gone before the kernel was told
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
