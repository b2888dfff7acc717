"""GraphQL requests per second, against a floor: Starlette, one query, rows, orjson.

The floor answers the same bytes from the same database, behind the same server; the load takes
turns between the two, so that only the ratio counts.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import asyncpg
import httpx

from app.auth.issuer import DEVELOPMENT_ISSUER
from app.auth.viewer import user_id
from app.supervisor import free_address
from bench.service import BenchedService, benched_service

LECTURES, LINKS, USERS = 20_000, 40_000, 200
SECONDS, TURNS, CONNECTIONS = 1.5, 3, 8
FIELDS = "id title status durationSeconds panoptoUrl revision createdAt updatedAt"
OPERATIONS = {
    "one": f"query ($id: ID!) {{ lecture(id: $id) {{ {FIELDS} }} }}",
    "lect50": f"{{ lectures(first: 50) {{ nodes {{ {FIELDS} course {{ code title }} }} }} }}",
}


def main() -> None:
    """Print the table."""
    with benched_service() as service, _floor(service) as floor:
        viewer = user_id(DEVELOPMENT_ISSUER, "bench")
        lecture_id = asyncio.run(_fill(service, viewer))
        headers = {"Authorization": f"Bearer {service.token('bench')}"}
        print("## GraphQL, requests per second")
        for name, query in OPERATIONS.items():
            variables = {"id": str(lecture_id)} if name == "one" else None
            body = json.dumps({"query": query, "variables": variables}).encode()
            floor_url = f"{floor}/{name}?user={viewer}&id={lecture_id}"
            ours, floors = [], []
            for _ in range(TURNS):
                ours.append(asyncio.run(_load(f"{service.address}/graphql", headers, body)))
                floors.append(asyncio.run(_load(floor_url, {}, body)))
            mine, least = statistics.median(ours), statistics.median(floors)
            print(f"{name}: {mine:.0f}/s, floor {least:.0f}/s, ratio {mine / least:.2f}")


async def _load(url: str, headers: dict[str, str], body: bytes) -> float:
    """Return the requests per second over a few connections."""
    answered = 0
    headers = headers | {"Content-Type": "application/json"}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        end = time.perf_counter() + SECONDS

        async def ask() -> None:
            nonlocal answered
            while time.perf_counter() < end:
                response = await client.post(url, content=body, headers=headers)
                assert response.status_code == 200, response.text
                assert b'"errors"' not in response.content, response.text
                answered += 1

        await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return answered / SECONDS


async def _fill(service: BenchedService, viewer: UUID) -> UUID:
    """Make users, courses, lectures and links; return one lecture of the viewer's."""
    connection = await asyncpg.connect(service.dsn)
    try:
        await connection.execute(
            "INSERT INTO users (id, issuer, subject) VALUES ($1, $2, 'bench')",
            viewer,
            DEVELOPMENT_ISSUER,
        )
        await connection.execute(
            f"""
            INSERT INTO users (issuer, subject)
                SELECT 'bench', n::text FROM generate_series(1, {USERS}) n;
            INSERT INTO courses (code, title)
                SELECT 'C ' || n, 'Course ' || n FROM generate_series(1, 100) n;
            INSERT INTO lectures (course_id, panopto_url, canonical_url, title)
                SELECT (SELECT id FROM courses WHERE code = 'C ' || (1 + n % 100)),
                       'https://example.org/' || n, 'https://example.org/' || n, 'Lecture ' || n
                FROM generate_series(1, {LECTURES}) n;
            """
        )
        await connection.execute(
            f"""
            INSERT INTO user_lectures (user_id, lecture_id)
                SELECT u.id, l.id FROM
                    (SELECT id, row_number() OVER () AS n FROM users) u
                    JOIN (SELECT id, row_number() OVER () AS n FROM lectures) l
                      ON l.n % {USERS + 1} IN (u.n % {USERS + 1}, (u.n + 1) % {USERS + 1})
                LIMIT {LINKS}
            """
        )
        await connection.execute("ANALYZE")
        lecture_id: UUID = await connection.fetchval(
            "SELECT lecture_id FROM user_lectures WHERE user_id = $1 LIMIT 1", viewer
        )
    finally:
        await connection.close()
    return lecture_id or uuid4()


@contextmanager
def _floor(service: BenchedService) -> Iterator[str]:
    address = free_address("127.0.0.1", 0)
    command = [sys.executable, "-m", "bench.floor", service.dsn, str(address.port)]
    process = subprocess.Popen(command)
    try:
        with httpx.Client(trust_env=False) as client:
            for _ in range(200):
                try:
                    client.get(address.url)
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
        yield address.url
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
