"""Processes that work on one job each, for a worker that may die of it (`app.jobs.apart`)."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import structlog

from app.db.ledger import Lease
from app.db.outages import is_outage
from app.domain import JobKind
from app.errors import LeaseLost
from app.ingest.child_process import die_with_parent
from app.jobs.apart import ALIVE_SECONDS
from app.jobs.runner import JobHandler
from app.observability import configure_logging
from app.settings import load_settings
from app.worker import open_handlers

log = structlog.get_logger()

_LONGEST_LINE_BYTES = 16 * 1024 * 1024


def main() -> None:
    """Fork a process for each socket that comes over the line, until that is closed.

    The arguments are the line's descriptor and the worker's pid.
    """
    line, worker = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    die_with_parent(worker)
    for number in (signal.SIGTERM, signal.SIGINT):  # The worker hears them, and says what to do.
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel buries them.
    forker = os.getpid()
    while True:
        said, descriptors, _, _ = socket.recv_fds(line, 1, 1)
        if not said:
            return
        for descriptor in descriptors:  # None comes where there is no room for it.
            _fork(forker, line, descriptor)


def _fork(forker: int, line: socket.socket, descriptor: int) -> None:
    try:
        if os.fork() == 0:
            line.close()
            _be_a_process(forker, socket.socket(fileno=descriptor))
    except OSError as error:  # No memory, or no more processes: it shows by the socket's end.
        log.error("job_process_not_forked", reason=error.strerror)
    finally:
        os.close(descriptor)


def _be_a_process(forker: int, worker: socket.socket) -> None:
    """Serve the worker until it has nothing more to say, and end."""
    os.setsid()
    die_with_parent(forker)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        asyncio.run(_serve(worker))
    except Exception as error:  # noqa: BLE001 - the settings, with their secrets, are in its traceback
        log.error("job_process_broke", reason=type(error).__name__)
    finally:
        os._exit(0)


async def _serve(worker: socket.socket) -> None:
    lines, answers = await asyncio.open_connection(sock=worker, limit=_LONGEST_LINE_BYTES)
    first = await lines.readline()
    if not first:
        return
    said = json.loads(first)
    settings, lease = load_settings(**said["settings"]), _lease(said["lease"])
    configure_logging(settings)
    structlog.contextvars.bind_contextvars(job_id=str(lease.job_id), kind=lease.kind.value)
    async with open_handlers(settings) as (_, handlers):
        # Not before: what keeps it from opening is not the job's fault.
        alive = asyncio.create_task(_say_alive(answers))
        (handler,) = [each for each in handlers if each.kind is lease.kind]
        await _answer_calls(lines, answers, handler, lease)
        alive.cancel()


def _lease(values: dict[str, Any]) -> Lease:
    names = {name: UUID(values[name]) for name in ("job_id", "subject_id", "token")}
    return Lease(**{**values, **names, "kind": JobKind(values["kind"])})


async def _say_alive(answers: asyncio.StreamWriter) -> None:
    while True:
        _say(answers, f"alive {os.getpid()}")
        await asyncio.sleep(ALIVE_SECONDS)


async def _answer_calls(
    lines: asyncio.StreamReader, answers: asyncio.StreamWriter, handler: JobHandler, lease: Lease
) -> None:
    """Make one call at a time, until the worker closes the line."""
    call: asyncio.Task[None] | None = None
    while line := await lines.readline():
        method = line.decode().strip()
        if method != "cancel":
            call = asyncio.create_task(_answer(answers, getattr(handler, method)(lease)))
            await asyncio.sleep(0)  # It begins: one that is cancelled before never answers.
        elif call is not None:
            call.cancel()
    if call is not None:
        call.cancel()
        await asyncio.wait([call])


async def _answer(answers: asyncio.StreamWriter, call: Coroutine[Any, Any, object]) -> None:
    try:
        _say(answers, f"returned {await call}")
    except asyncio.CancelledError:
        _say(answers, "cancelled")
    except LeaseLost:
        _say(answers, "lost")
    except Exception as error:
        if is_outage(error):
            log.warning("job_interrupted", exc_info=True)
            _say(answers, "outage")
        else:
            log.exception("job_broke")
            _say(answers, "broke")


def _say(answers: asyncio.StreamWriter, line: str) -> None:
    answers.write(line.encode() + b"\n")
