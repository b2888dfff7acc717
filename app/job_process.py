"""A process that works on one job, for a worker that may die of it (`app.jobs.apart`)."""

import asyncio
import json
import signal
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


def main() -> None:
    """Serve the worker whose pid is the argument, until it has nothing more to say."""
    die_with_parent(int(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGINT):  # The worker hears them, and says what to do.
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(_serve())


async def _serve() -> None:
    lines = await _standard_input()
    first = json.loads(await lines.readline())
    settings, lease = load_settings(**first["settings"]), _lease(first["lease"])
    configure_logging(settings)
    structlog.contextvars.bind_contextvars(job_id=str(lease.job_id), kind=lease.kind.value)
    async with open_handlers(settings) as (_, handlers):
        (handler,) = [each for each in handlers if each.kind is lease.kind]
        alive = asyncio.create_task(_say_alive())
        await _answer_calls(lines, handler, lease)
        alive.cancel()


async def _standard_input() -> asyncio.StreamReader:
    lines = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return lines


def _lease(values: dict[str, Any]) -> Lease:
    names = {name: UUID(values[name]) for name in ("job_id", "subject_id", "token")}
    return Lease(**{**values, **names, "kind": JobKind(values["kind"])})


async def _say_alive() -> None:
    while True:
        _say("alive")
        await asyncio.sleep(ALIVE_SECONDS)


async def _answer_calls(lines: asyncio.StreamReader, handler: JobHandler, lease: Lease) -> None:
    """Make one call at a time, until the worker closes the line."""
    call: asyncio.Task[None] | None = None
    while line := await lines.readline():
        method = line.decode().strip()
        if method != "cancel":
            call = asyncio.create_task(_answer(getattr(handler, method)(lease)))
        elif call is not None:
            call.cancel()
    if call is not None:
        call.cancel()
        await asyncio.wait([call])


async def _answer(call: Coroutine[Any, Any, object]) -> None:
    try:
        _say(f"returned {await call}")
    except asyncio.CancelledError:
        _say("cancelled")
    except LeaseLost:
        _say("lost")
    except Exception as error:
        if is_outage(error):
            log.warning("job_interrupted", exc_info=True)
            _say("outage")
        else:
            log.exception("job_broke")
            _say("broke")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
