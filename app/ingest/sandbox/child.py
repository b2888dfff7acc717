"""The program that `sandbox.run_child` starts: limits itself, then runs one task of one module.

Imports the standard library alone, so that it starts fast and the limits come before all else.
It can open no socket: what a task wants from elsewhere, it asks its parent for.
A task's module has a function ``run(arguments) -> result``, both JSON objects; what follows the
request's line is the argument ``content``, as bytes.
"""

import ctypes
import errno
import importlib
import json
import os
import resource
import signal
import struct
import sys
from typing import Any

_TASKS = (
    "app.embedder.child.check",
    "app.embedder.child.keywords",
    "app.ingest.sandbox.tasks.audio",
    "app.ingest.sandbox.tasks.audio_index",
    "app.ingest.sandbox.tasks.captions",
    "app.ingest.sandbox.tasks.delivery",
    "app.ingest.sandbox.tasks.page_texts",
    "app.ingest.sandbox.tasks.pages",
    "app.ingest.sandbox.tasks.playlist",
    "app.ingest.sandbox.tasks.sound",
    "app.ingest.sandbox.tasks.ytdlp",
    "app.ingest.sandbox.tasks.ytdlp_names",
    "app.speech.child.check",
    "app.speech.child.hear",
)
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_X32_CALLS = 0x40000000
_SECCOMP_RET_ALLOW = 0x7FFF0000
_SECCOMP_RET_ERRNO = 0x00050000
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Refused(Exception):
    """There is no result, for a reason that the parent knows by its code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def main() -> None:
    """Read the request from stdin and write the answer to stdout; argument: the parent's pid."""
    die_with_parent(int(sys.argv[1]))
    _refuse_sockets()
    request = json.loads(sys.stdin.buffer.readline())
    _limit(**request["limits"])
    if content := sys.stdin.buffer.read():
        request["arguments"]["content"] = content
    answer_file = os.dup(1)
    os.dup2(2, 1)  # What a library prints is no answer, and goes to stderr.
    answer = _answer(request["module"], request["arguments"])
    os.write(answer_file, json.dumps(answer).encode())


def die_with_parent(parent: int) -> None:
    """End this process when the one with that pid, which started it, ends; gain no privileges."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # It died before this was asked for.
        sys.exit(1)


def _refuse_sockets() -> None:
    """Let the kernel answer EPERM to ``socket``, for this process and what it starts (seccomp(2)).

    Where the machine is of another kind, or the kernel knows no filters, nothing is refused.
    """
    # The architecture (audit.h), and the numbers of socket and io_uring_setup: both open some.
    calls = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}
    if sys.platform != "linux" or os.uname().machine not in calls:
        return
    architecture, *refused = calls[os.uname().machine]
    load, jump_if_equal, jump_if_at_least, answer = 0x20, 0x15, 0x35, 0x06
    instructions = (
        (load, 0, 0, 4),  # The architecture that the call was made for: no other's numbers count.
        (jump_if_equal, 0, 4, architecture),
        (load, 0, 0, 0),  # The call's number.
        (jump_if_at_least, 2, 0, _X32_CALLS),
        (jump_if_equal, 1, 0, refused[0]),
        (jump_if_equal, 0, 1, refused[1]),
        (answer, 0, 0, _SECCOMP_RET_ERRNO | errno.EPERM),
        (answer, 0, 0, _SECCOMP_RET_ALLOW),
    )
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("HBBI", *each) for each in instructions)
    )

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def _limit(memory_bytes: int, cpu_seconds: int, file_bytes: int, open_files: int) -> None:
    for which, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds + 1),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, open_files),
    ):
        ceiling = resource.getrlimit(which)[1]  # The process may have been given less.
        allowed = most if ceiling == resource.RLIM_INFINITY else min(most, ceiling)
        resource.setrlimit(which, (allowed, allowed))
    # At the soft limit comes SIGXCPU, which the parent can tell from other ends; then SIGKILL.
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (hard - 1, hard))


def _answer(module: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if module not in _TASKS:
        raise ValueError("no such task")
    try:
        return {"result": importlib.import_module(module).run(arguments)}
    except Refused as refusal:
        return {"refused": refusal.code}
    except MemoryError:
        return {"refused": "out_of_memory"}
    except OSError as error:
        if error.errno in _FULL:
            return {"refused": "storage_full"}
        raise
