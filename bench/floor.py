"""The floor of the GraphQL measurement: one query, its rows as JSON, nothing else."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

COLUMNS = (
    "l.id, l.title, l.status, l.duration_seconds, l.panopto_url, l.revision, l.created_at,"
    " l.updated_at"
)
ONE = f"""SELECT {COLUMNS} FROM lectures l WHERE l.id = $1 AND EXISTS (
    SELECT FROM user_lectures u WHERE u.lecture_id = l.id AND u.user_id = $2)"""
LECT50 = f"""SELECT {COLUMNS}, c.code, c.title AS course_title
    FROM user_lectures u JOIN lectures l ON l.id = u.lecture_id
    LEFT JOIN courses c ON c.id = l.course_id
    WHERE u.user_id = $1 ORDER BY u.created_at DESC, u.lecture_id LIMIT 50"""


def make_app(dsn: str) -> Starlette:
    """Return the app."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.pool = await asyncpg.create_pool(dsn, min_size=5, max_size=10)
        yield
        await app.state.pool.close()

    async def one(request: Request) -> Response:
        ids = UUID(request.query_params["id"]), UUID(request.query_params["user"])
        return _json(await request.app.state.pool.fetch(ONE, *ids))

    async def lect50(request: Request) -> Response:
        user = UUID(request.query_params["user"])
        return _json(await request.app.state.pool.fetch(LECT50, user))

    routes = [Route("/one", one, methods=["POST"]), Route("/lect50", lect50, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan)


def _json(rows: list[asyncpg.Record]) -> Response:
    body = orjson.dumps([dict(row) for row in rows], default=str)
    return Response(body, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]), log_level="error")
