"""Search among everyone's chunks: how long viewers with 200 and 500 lectures of an hour wait.

Rows go straight into PostgreSQL: texts of 75 words by Zipf's law out of 20,000, vectors around 300
centres.  ``SEARCH_CHUNKS`` says how many there are (100,000; the figures of docs/search.md are of
1,000,000), ``SEARCH_HNSW=1`` builds the index of vectors too, which takes most of the time.

The floors, in the same run: numpy over the same viewer's vectors in memory, and the full-text part
of the statement alone.
"""

import asyncio
import io
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.auth.viewer import Viewer
from app.db.engine import make_engine, make_sessions
from app.db.migrations import upgrade
from app.domain import SearchMode
from app.embedded.postgres import EmbeddedPostgres
from app.services.search.read import SearchFilter, search

CHUNKS = int(os.environ.get("SEARCH_CHUNKS", "100000"))
HNSW = os.environ.get("SEARCH_HNSW") == "1"
PER_LECTURE = 130
BATCH = 20_000
QUERIES = 40
WORDS = 20_000
DIMENSIONS = 384
TEXT_BYTES = 440
COURSES = [uuid4() for _ in range(10)]
VIEWERS = {"200 lectures": (0, 200), "500 lectures": (200, 700)}
MODEL = "clusters"


class Clusters:
    """Vectors as a model's: texts about one thing lie around one centre."""

    model, least_similarity = MODEL, 0.15

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._centres = self._near(np.zeros((300, DIMENSIONS), np.float32))

    def _near(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        noise = self._generator.standard_normal(points.shape).astype(np.float32) / 20
        vectors = points + noise
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def draw(self, count: int) -> NDArray[np.float32]:
        return self._near(self._centres[self._generator.integers(0, 300, count)])

    async def embed(self, texts: list[str]) -> NDArray[np.float32]:
        return self.draw(len(texts))

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self.draw(1)[0]
        return vector


class Texts:
    """Texts of 75 words, the n-th word of the vocabulary as often as Zipf says."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        letters = generator.integers(97, 123, (WORDS, 9), np.uint8)
        lengths = generator.integers(4, 10, WORDS)
        self.vocabulary = [bytes(w[:n]).decode() for w, n in zip(letters, lengths, strict=True)]
        weights = 1 / np.arange(10, WORDS + 10)
        self._weights = weights / weights.sum()
        self._pool = [" ".join(self.words(75)).encode()[:TEXT_BYTES] for _ in range(20_000)]

    def words(self, count: int) -> list[str]:
        numbers = self._generator.choice(WORDS, count, p=self._weights)
        return [self.vocabulary[number] for number in numbers]

    def draw(self, count: int) -> NDArray[np.bytes_]:
        chosen = self._generator.integers(0, len(self._pool), count)
        return np.array([self._pool[number].ljust(TEXT_BYTES) for number in chosen])


ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("lecture_bytes", ">i4"),
        ("lecture", ">i4"),
        ("number_bytes", ">i4"),
        ("number", ">i4"),
        ("text_bytes", ">i4"),
        ("text", f"S{TEXT_BYTES}"),
        ("vector_bytes", ">i4"),
        ("dimensions", ">i2"),
        ("unused", ">i2"),
        ("vector", ">f2", (DIMENSIONS,)),
    ]
)
"""A row in PostgreSQL's binary COPY format, a halfvec in pgvector's."""

LOAD = [
    "DROP INDEX idx_transcription_chunks_search; DROP INDEX idx_transcription_vectors_embedding",
    """
    INSERT INTO lectures (id, course_id, panopto_url, canonical_url, status)
    SELECT id, ($1::uuid[])[1 + lecture % 10], 'https://site.test/' || id,
           'https://site.test/' || id, 'completed' FROM bench_lectures
    """,
    """
    INSERT INTO transcriptions (id, lecture_id, source, model_name, language, status, storage_key,
                                completed_at, indexed_at, embedder, text_config, chunk_count)
    SELECT transcription, id, 'speech_recognition', 'base', 'en', 'completed', 'bench', now(),
           now(), 'clusters', 'english', 130 FROM bench_lectures
    """,
    """
    INSERT INTO transcription_chunks (transcription_id, chunk_index, text, start_time, end_time,
                                      start_char_pos, end_char_pos, search, sentences)
    SELECT transcription, number, text, number * 27, number * 27 + 30, 0, 440,
           to_tsvector('english', text), jsonb_build_array(jsonb_build_array(0, number * 27))
    FROM bench_rows JOIN bench_lectures USING (lecture) ORDER BY lecture, number
    """,
    """
    INSERT INTO transcription_vectors
    SELECT transcription, number, vector
    FROM bench_rows JOIN bench_lectures USING (lecture) ORDER BY lecture, number
    """,
]
FULL_TEXT = """
    SELECT chunk_index FROM user_lectures JOIN transcriptions USING (lecture_id)
    CROSS JOIN LATERAL (SELECT chunk_index, search FROM transcription_chunks
                        WHERE transcription_id = transcriptions.id OFFSET 0) AS chunks
    WHERE user_id = $1 AND search @@ (SELECT websearch_to_tsquery('english', $2))
    ORDER BY ts_rank_cd(search, (SELECT websearch_to_tsquery('english', $2)), 1) DESC LIMIT 200
"""


async def load(connection: asyncpg.Connection, texts: Texts, vectors: Clusters) -> None:
    """Fill the tables, the lectures of the two viewers first."""
    await connection.execute(
        "CREATE UNLOGGED TABLE bench_rows (lecture int, number int, text text, vector halfvec(384))"
    )
    for start in range(0, CHUNKS, BATCH):
        count = min(BATCH, CHUNKS - start)
        rows, places = np.zeros(count, ROW), np.arange(start, start + count)
        rows["fields"], rows["lecture_bytes"], rows["number_bytes"] = 4, 4, 4
        rows["lecture"], rows["number"] = places // PER_LECTURE, places % PER_LECTURE
        rows["text_bytes"], rows["text"] = TEXT_BYTES, texts.draw(count)
        rows["vector_bytes"], rows["dimensions"] = 4 + 2 * DIMENSIONS, DIMENSIONS
        rows["vector"] = vectors.draw(count)
        content = b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + b"\xff\xff"
        await connection.copy_to_table("bench_rows", source=io.BytesIO(content), format="binary")
    await connection.execute(
        "CREATE UNLOGGED TABLE bench_lectures AS SELECT lecture, gen_random_uuid() AS id,"
        " gen_random_uuid() AS transcription FROM (SELECT DISTINCT lecture FROM bench_rows) AS l"
    )
    for statement in LOAD:
        await (
            connection.execute(statement, COURSES)
            if "$1" in statement
            else connection.execute(statement)
        )


async def build(connection: asyncpg.Connection) -> None:
    """Build the indexes, and tell how long that takes and how large all of it is."""
    await connection.execute("SET maintenance_work_mem = '2GB'")
    began = time.perf_counter()
    await connection.execute(
        "CREATE INDEX idx_transcription_chunks_search ON transcription_chunks USING gin (search)"
    )
    print(f"full-text index built in {time.perf_counter() - began:.0f} s")
    if HNSW:
        began = time.perf_counter()
        await connection.execute(
            "CREATE INDEX idx_transcription_vectors_embedding ON transcription_vectors"
            " USING hnsw (embedding halfvec_cosine_ops)"
        )
        print(f"HNSW index built in {time.perf_counter() - began:.0f} s")
    await connection.execute("VACUUM ANALYZE")
    sizes = await connection.fetch(
        "SELECT relname, pg_size_pretty(pg_relation_size(oid)) AS size FROM pg_class"
        " WHERE relname ~ '(transcription_chunks|transcription_vectors)' AND relkind IN ('r', 'i')"
        " ORDER BY pg_relation_size(oid) DESC"
    )
    for name, size in sizes:
        print(f"  {name:<45} {size:>10}")


async def add_viewer(connection: asyncpg.Connection, first: int, end: int) -> Viewer:
    id_: UUID = await connection.fetchval(
        "INSERT INTO users (issuer, subject) VALUES ('bench', gen_random_uuid()) RETURNING id"
    )
    await connection.execute(
        "INSERT INTO user_lectures (user_id, lecture_id)"
        " SELECT $1, id FROM bench_lectures WHERE lecture >= $2 AND lecture < $3",
        id_,
        first,
        end,
    )
    return Viewer(id_, "bench", str(id_), is_admin=False, expires_at=0)


async def timed(work: Callable[[int], Awaitable[object]]) -> list[float]:
    """Return the milliseconds of each of the queries, after five that warm up."""
    taken = []
    for number in range(-5, QUERIES):
        began = time.perf_counter()
        await work(number)
        if number >= 0:
            taken.append((time.perf_counter() - began) * 1000)
    return taken


def tell(name: str, taken: list[float]) -> None:
    p95 = statistics.quantiles(taken, n=20)[-1]
    print(f"  {name:<45} {statistics.median(taken):>8.1f} {p95:>8.1f}")


async def measure(
    sessions: async_sessionmaker[AsyncSession],
    connection: asyncpg.Connection,
    viewer: Viewer,
    texts: Texts,
    vectors: Clusters,
) -> None:
    typed = [" ".join(texts.words(2)) for _ in range(QUERIES + 5)]
    lecture: UUID = await connection.fetchval(
        "SELECT lecture_id FROM user_lectures WHERE user_id = $1 LIMIT 1", viewer.id
    )

    async def run(number: int, mode: SearchMode, where: SearchFilter) -> None:
        await search(sessions, vectors, viewer, typed[number], mode, where, 20, None)

    for mode in SearchMode:
        tell(mode.name, await timed(lambda n, mode=mode: run(n, mode, SearchFilter())))
    filters = {
        "one course of ten": SearchFilter(course_id=COURSES[0]),
        "one lecture": SearchFilter(lecture_id=lecture),
    }
    hybrid = SearchMode.HYBRID
    for name, where in filters.items():
        tell(f"HYBRID, {name}", await timed(lambda n, where=where: run(n, hybrid, where)))
    tell(
        "floor: the full-text part alone",
        await timed(lambda n: connection.fetch(FULL_TEXT, viewer.id, typed[n])),
    )
    count: int = await connection.fetchval(
        "SELECT count(*) * 130 FROM user_lectures WHERE user_id = $1", viewer.id
    )
    held = vectors.draw(count)

    async def scan(number: int) -> None:
        np.argpartition(held @ vectors.draw(1)[0], -200)

    tell("floor: numpy over the vectors alone", await timed(scan))


async def run(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "postgres", durable=False)
    server.start()
    try:
        await upgrade(server.url)
        generator = np.random.default_rng(13)
        texts, vectors = Texts(generator), Clusters(generator)
        connection = await asyncpg.connect(
            host=str(server.socket_directory), user="studybuddy", database="studybuddy"
        )
        engine = make_engine(server.url)
        began = time.perf_counter()
        await load(connection, texts, vectors)
        print(f"\nsearch: {CHUNKS:,} chunks, loaded in {time.perf_counter() - began:.0f} s")
        await build(connection)
        for name, (first, end) in VIEWERS.items():
            if end * PER_LECTURE <= CHUNKS:
                viewer = await add_viewer(connection, first, end)
                print(f"  {'a viewer with ' + name:<45} {'p50 ms':>8} {'p95 ms':>8}")
                await measure(make_sessions(engine), connection, viewer, texts, vectors)
        await engine.dispose()
        await connection.close()
    finally:
        server.stop()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


if __name__ == "__main__":
    main()
