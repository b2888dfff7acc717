"""Run what parses a stranger's bytes in a child process with limits.

The child is ``app.ingest.sandbox.child``; it limits itself before it reads its task.  The parent
keeps the wall clock: on timeout or cancellation the child's whole process group is killed, and
`run_child` returns only when it is gone.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Any

from app.cancellation import ended

_MAX_ANSWER_BYTES = 64 * 1024
_KEPT_ERROR_BYTES = 4096
_WRITTEN_BYTES = 1024 * 1024
_LONG_ANSWER_BYTES = 256 * 1024
_PROGRAM = "from app.ingest.sandbox.child import main; main()"
_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGQUIT}
# OpenBLAS starts a thread for each core when numpy is imported, and maps memory for each.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use: address space, CPU time, the largest file it writes, open files."""

    memory_bytes: int
    cpu_seconds: int
    file_bytes: int
    open_files: int = 64


class ChildError(Exception):
    """The child gave no result."""


class ChildKilled(Exception):
    """Somebody killed the child: the kernel for want of memory, or an operator.

    No `ChildError`: it says nothing of what was parsed, which may well succeed another time.
    """


class ChildCrashed(ChildError):
    """The child ended without an answer: a fault's signal, an exception, a broken answer.

    ``return_code`` is negative for a signal; ``errors`` is the end of what it wrote to stderr,
    for the log alone.
    """

    def __init__(self, return_code: int, errors: str) -> None:
        super().__init__(f"the child ended with code {return_code}")
        self.return_code = return_code
        self.errors = errors


class ChildTimedOut(ChildError):
    """The child used up its wall clock or its CPU time."""


class ChildRefused(ChildError):
    """The child says, by a code of its own, why there is no result."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the child refused: {code}")
        self.code = code


async def run_child(
    module: str,
    arguments: dict[str, Any],
    *,
    content: bytes = b"",
    limits: Limits,
    timeout_seconds: float,
    max_answer_bytes: int = _MAX_ANSWER_BYTES,
    descriptors: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Return what the module's ``run(arguments)`` returns in a process of its own.

    Arguments and result are JSON objects; ``content`` is added to the arguments as it is.
    ``descriptors`` are what the child inherits besides its standard streams.  Raises a
    `ChildError`, or `ChildKilled`; whatever happens, no process is left.
    """
    request = {"module": module, "arguments": arguments, "limits": asdict(limits)}
    head = json.dumps(request).encode() + b"\n"
    run = asyncio.ensure_future(
        _run((head, content), timeout_seconds, max_answer_bytes, descriptors)
    )
    try:
        return await asyncio.shield(run)
    finally:
        # Once, however often we are: asyncio forgets a child whose start is cancelled twice.
        run.cancel()
        await ended(run)


async def _run(
    request: tuple[bytes, bytes],
    timeout_seconds: float,
    max_answer_bytes: int,
    descriptors: tuple[int, ...],
) -> dict[str, Any]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", _PROGRAM, str(os.getpid())),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_ENVIRONMENT,
        pass_fds=descriptors,
        start_new_session=True,
    )
    talk = asyncio.ensure_future(_talk(child, request, max_answer_bytes))
    try:
        async with asyncio.timeout(timeout_seconds):
            answer, errors = await asyncio.shield(talk)
    except TimeoutError:
        raise ChildTimedOut from None
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        await ended(talk)
    if len(answer) > _LONG_ANSWER_BYTES:  # The loop has others to serve meanwhile.
        return await asyncio.to_thread(_result_of, child.returncode or 0, answer, errors)
    return _result_of(child.returncode or 0, answer, errors)


async def _talk(
    child: asyncio.subprocess.Process, request: tuple[bytes, bytes], max_answer_bytes: int
) -> tuple[bytes, bytes]:
    """Send request and content; return the answer and the errors, when the child has ended."""
    _, answer, errors, _ = await asyncio.gather(
        _send(child.stdin, request),
        _read(child.stdout, max_answer_bytes),
        _read(child.stderr, _KEPT_ERROR_BYTES),
        child.wait(),
    )
    return answer, errors


async def _send(stream: asyncio.StreamWriter | None, request: tuple[bytes, bytes]) -> None:
    if stream is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for body in (memoryview(part) for part in request):
            for start in range(0, len(body), _WRITTEN_BYTES):
                stream.write(body[start : start + _WRITTEN_BYTES])
                await stream.drain()
        stream.close()
        await stream.wait_closed()


async def _read(stream: asyncio.StreamReader | None, kept_bytes: int) -> bytes:
    """Read to the end and return the last bytes."""
    kept = bytearray()
    while stream and (chunk := await stream.read(kept_bytes)):
        kept += chunk
        del kept[:-kept_bytes]
    return bytes(kept)


def _result_of(return_code: int, answer: bytes, errors: bytes) -> dict[str, Any]:
    if return_code == -signal.SIGXCPU:
        raise ChildTimedOut
    if return_code in _FROM_OUTSIDE:
        raise ChildKilled
    try:
        content = json.loads(answer) if return_code == 0 else {}
    except ValueError:
        content = {}
    match content:
        case {"result": dict(result)}:
            return result
        case {"refused": str(code)}:
            raise ChildRefused(code)
    raise ChildCrashed(return_code, errors.decode(errors="replace"))
