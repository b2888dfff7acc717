"""How a process tells whoever watches over it that it has started: a byte into a pipe.

A process that ended before that cannot run as things are; one that ended later can be started anew.
"""

import os

VARIABLE = "STUDYBUDDY_STARTED_FD"


def announce_start() -> None:
    """Tell it, once; nothing happens where nobody asked to be told."""
    descriptor = os.environ.pop(VARIABLE, None)
    if descriptor is not None:
        with os.fdopen(int(descriptor), "wb", buffering=0) as pipe:
            pipe.write(b"\n")
