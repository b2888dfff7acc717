"""Liveness, readiness and metrics: for machines, so they tell states and nothing else."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.db.vectors import extensions
from app.errors import Unauthenticated
from app.observability import OPEN_JOBS, REGISTRY
from app.settings import Settings
from app.storage.protocol import ObjectStore

_log = structlog.get_logger(__name__)

_CHECK_SECONDS = 2.0
# Without these no request succeeds; Redis only makes live status quick.
_NEEDED = frozenset({"database", "storage"})
_OPEN_JOBS = text(
    "SELECT kind, state, count(*) FROM jobs WHERE state IN ('queued', 'running') GROUP BY 1, 2"
)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What readiness looks at."""

    engine: AsyncEngine
    storage: ObjectStore
    redis: Redis
    has_embedder: bool


def health_routes(
    dependencies: Callable[[Request], Dependencies], settings: Settings
) -> list[Route]:
    """Return the routes; ``dependencies`` gives what a lifespan may have opened late."""

    async def live(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        parts = dependencies(request)
        search = "KEYWORD"

        async def ask_database() -> None:
            nonlocal search
            async with parts.engine.connect() as connection:
                able = await extensions(connection)
            if parts.has_embedder and able.vectors:
                search = "HYBRID"

        checks = {
            "database": ask_database(),
            "storage": parts.storage.check(),
            "redis": parts.redis.ping(),
        }
        work = await asyncio.gather(*(_works(name, check) for name, check in checks.items()))
        failed = {name for name, works in zip(checks, work, strict=True) if not works}
        status = "unavailable" if failed & _NEEDED else "degraded" if failed else "ok"
        told = {name: "down" if name in failed else "ok" for name in checks}
        body = {"status": status, "checks": told, "search": search}
        return JSONResponse(body, status_code=503 if status == "unavailable" else 200)

    async def metrics(request: Request) -> Response:
        if not _may_read_metrics(request, settings):
            raise Unauthenticated("A valid metrics token is required.")
        await _works("jobs", _count_jobs(dependencies(request).engine))
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/health/live", live, methods=["GET"]),
        Route("/health/ready", ready, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]


async def _count_jobs(engine: AsyncEngine) -> None:
    """Measure the ledger, which knows the work of all processes; none where it does not answer."""
    OPEN_JOBS.clear()
    async with engine.connect() as connection:
        counts = (await connection.execute(_OPEN_JOBS)).all()
    OPEN_JOBS.clear()
    for kind, state, count in counts:
        OPEN_JOBS.labels(kind, state).set(count)


async def _works(name: str, check: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await check
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a part, it is down
        _log.warning("health.down", part=name, reason=type(error).__name__)
        return False
    return True


def _may_read_metrics(request: Request, settings: Settings) -> bool:
    """In production only for METRICS_TOKEN (for nobody where it is not set), else for all."""
    if not settings.production:
        return True
    if not settings.metrics_token:
        return False
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(), settings.metrics_token.encode())
    return right and scheme.lower() == "bearer"
