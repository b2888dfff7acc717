"""Throughput of files in a bucket, as a ratio to obstore alone on the same server.

    python -m bench.bench_s3 [--mib 100] [--runs 3]

Runs are interleaved and medians compared; figures above 1 mean slower than obstore alone.  The
server is moto in a process of its own: the ratio travels, the seconds do not.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import obstore

from app.auth.issuer import DevelopmentIssuer
from app.db.migrations import upgrade
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.settings import Settings, load_settings
from app.storage.s3 import S3Storage
from tests.support.pdfs import make_pdf
from tests.support.s3 import plain_store, running_s3, s3_settings
from tests.support.service import Client, running_api

MIB = 1024 * 1024
Step = Callable[[], Awaitable[None]]


async def chunks_of(content: bytes) -> AsyncIterator[bytes]:
    view = memoryview(content)
    for start in range(0, len(content), 64 * 1024):
        yield bytes(view[start : start + 64 * 1024])


def obstore_steps(endpoint: str, settings: Settings, content: bytes) -> dict[str, Step]:
    store = plain_store(endpoint, settings)

    async def put() -> None:
        await obstore.put_async(store, "alone", chunks_of(content))

    async def get() -> None:
        found = await obstore.get_async(store, "alone")
        async for _ in found.stream(min_chunk_size=MIB):
            pass

    return {"obstore up": put, "obstore down": get}


def storage_steps(storage: S3Storage, content: bytes) -> dict[str, Step]:
    async def put() -> None:
        await storage.store_file("ours", chunks_of(content))

    async def get() -> None:
        async with storage.open_file("ours") as opened:
            async for _ in opened.chunks:
                pass

    return {"storage up": put, "storage down": get}


def api_steps(user: Client, content: bytes) -> dict[str, Step]:
    url = ""

    async def put() -> None:
        nonlocal url
        url = (await user.upload(uuid4(), content))["document"]["fileUrl"]

    async def get() -> None:
        headers = {"Authorization": f"Bearer {user.token}"}
        async with user.http.stream("GET", url, headers=headers) as response:
            async for _ in response.aiter_raw():
                pass

    return {"API up": put, "API down": get}


async def measure(settings: Settings, endpoint: str, size_mib: int, runs: int) -> dict[str, float]:
    content = make_pdf(1) + bytes(size_mib * MIB)
    seconds: dict[str, list[float]] = {}
    storage = S3Storage.from_settings(settings)
    async with (
        running_api(settings) as address,
        httpx.AsyncClient(base_url=address, timeout=120, trust_env=False) as http,
    ):
        token = DevelopmentIssuer.load(settings.data_path).issue("ada")
        steps = obstore_steps(endpoint, settings, content) | storage_steps(storage, content)
        steps |= api_steps(Client("ada", token, http, address), content)
        for _ in range(runs):
            for name, step in steps.items():
                start = time.perf_counter()
                await step()
                seconds.setdefault(name, []).append(time.perf_counter() - start)
    await storage.close()
    return {name: statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sb-")))
        postgres = EmbeddedPostgres(folder / "postgres", durable=False)
        redis = EmbeddedRedis(folder / "redis")
        for server in (postgres, redis):
            server.start()
            stack.callback(server.stop)
        asyncio.run(upgrade(postgres.url))
        endpoint = stack.enter_context(running_s3())
        base = load_settings(
            data_dir=folder / "data",
            database_url=postgres.url,
            redis_url=redis.url,
            port=0,
            log_level="ERROR",
        )
        medians = asyncio.run(
            measure(s3_settings(endpoint, base), endpoint, options.mib, options.runs)
        )
    for name, median in medians.items():
        alone = medians[f"obstore {name.rpartition(' ')[2]}"]
        print(f"{name:13} {median:6.2f} s  {median / alone:5.2f} x obstore alone")


if __name__ == "__main__":
    main()
