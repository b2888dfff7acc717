"""The children of this process that parse strangers' bytes."""

import os
import signal
from pathlib import Path

from tests.support.wait import wait_until


def media_children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [
        pid
        for pid in map(int, listed.split())
        if b"app.ingest.sandbox.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


async def kill_a_child(number: int = signal.SIGKILL) -> None:
    """Wait for a child and kill it, as the kernel does for want of memory."""
    children = await wait_until(media_children, "a child runs", poll_seconds=0.001)
    os.kill(children[0], number)
