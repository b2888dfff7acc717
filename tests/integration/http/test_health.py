"""Liveness, readiness and metrics against real servers, up and down."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.applications import Starlette

from app.auth.tokens import TokenVerifier
from app.errors import StorageError
from app.http.edge.health import Dependencies, health_routes
from app.http.edge.security import install_middleware
from app.settings import Settings, load_settings
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.storage.protocol import ObjectStore
from tests.support.serving import issuer_directory, new_client, serving

METRICS_TOKEN = "a-metrics-token"


class DownStorage(MemoryStorage):
    """Cannot be used."""

    async def check(self) -> None:
        raise StorageError("The store at store-7.internal does not answer.")


@asynccontextmanager
async def served(parts: Dependencies, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=[*health_routes(lambda request: parts, settings)])
    verifier = TokenVerifier.from_settings(load_settings(data_dir=issuer_directory()))
    install_middleware(app, settings, verifier)
    async with serving(app) as address, new_client(address.url) as client:
        yield client


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def nowhere() -> AsyncIterator[dict[str, Any]]:
    """Servers that are not there."""
    engine = create_async_engine("postgresql+asyncpg://user:hunter2@127.0.0.1:1/x")
    redis = Redis.from_url("redis://:hunter2@127.0.0.1:1/0")
    yield {"engine": engine, "redis": redis, "storage": DownStorage()}
    await engine.dispose()
    await redis.aclose()


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    storage = LocalStorage(tmp_path / "storage")
    yield storage
    await storage.close()


DEVELOPMENT = load_settings()


@pytest.mark.parametrize(
    ("down", "status", "word"),
    [
        ((), 200, "ok"),
        (("redis",), 200, "degraded"),
        (("storage",), 503, "unavailable"),
        (("engine",), 503, "unavailable"),
        (("engine", "storage", "redis"), 503, "unavailable"),
    ],
)
async def test_readiness(
    engine: AsyncEngine,
    redis: Redis,
    storage: ObjectStore,
    nowhere: dict[str, Any],
    down: tuple[str, ...],
    status: int,
    word: str,
) -> None:
    parts = {"engine": engine, "redis": redis, "storage": storage}
    parts |= {name: nowhere[name] for name in down}
    async with served(Dependencies(**parts, has_embedder=True), DEVELOPMENT) as client:
        response = await client.get("/health/ready")
        assert (await client.head("/health/ready")).status_code == status
        live = await client.get("/health/live")
    assert response.status_code == status
    names = {"engine": "database"}
    failed = {names.get(name, name) for name in down}
    assert response.json() == {
        "status": word,
        "checks": {
            name: "down" if name in failed else "ok" for name in ("database", "storage", "redis")
        },
        "search": "KEYWORD" if "engine" in down else "HYBRID",
    }
    assert (live.status_code, live.json()) == (200, {"status": "ok"})


async def test_readiness_tells_where_search_goes_by_words_alone(
    engine: AsyncEngine, redis: Redis, storage: ObjectStore
) -> None:
    async def told(*, has_embedder: bool) -> Any:
        parts = Dependencies(engine, storage, redis, has_embedder)
        async with served(parts, DEVELOPMENT) as client:
            return (await client.get("/health/ready")).json()["search"]

    assert await told(has_embedder=True) == "HYBRID"
    assert await told(has_embedder=False) == "KEYWORD"
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE transcription_vectors"))
    assert await told(has_embedder=True) == "KEYWORD"


async def test_metrics_in_development(nowhere: dict[str, Any]) -> None:
    async with served(Dependencies(**nowhere, has_embedder=True), DEVELOPMENT) as client:
        await client.get("/health/live")
        await client.get("/somewhere/else?signature=x")
        response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    counted = 'studybuddy_http_requests_total{method="GET",route="/health/live",status="200"}'
    assert counted in response.text
    assert 'route="other",status="401"' in response.text
    assert "somewhere" not in response.text
    assert "process_resident_memory_bytes" in response.text


def production(**changes: Any) -> Settings:
    return load_settings(
        environment="production",
        database_url="postgresql://x/x",
        redis_url="redis://x",
        auth_issuer="https://clerk.example.org",
        secret_key="0123456789abcdef",
        **changes,
    )


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer x", 401),
        (f"Basic {METRICS_TOKEN}", 401),
        (METRICS_TOKEN, 401),
        (f"Bearer {METRICS_TOKEN}x", 401),
        (f"Bearer {METRICS_TOKEN}", 200),
        (f"bearer {METRICS_TOKEN}", 200),
    ],
)
async def test_metrics_in_production(
    nowhere: dict[str, Any], authorization: str | None, status: int
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    settings = production(metrics_token=METRICS_TOKEN)
    async with served(Dependencies(**nowhere, has_embedder=True), settings) as client:
        response = await client.get("/metrics", headers=headers)
    assert response.status_code == status
    assert ("studybuddy" in response.text) == (status == 200)


async def test_without_a_metrics_token_nobody_reads_them(nowhere: dict[str, Any]) -> None:
    async with served(Dependencies(**nowhere, has_embedder=True), production()) as client:
        for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer None"}):
            assert (await client.get("/metrics", headers=headers)).status_code == 401
