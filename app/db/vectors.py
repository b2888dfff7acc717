"""What needs the server's extensions: vectors of meaning, and likeness of words.

The tables of vectors hold nothing else, in half precision and in the order in which they were
written, so that looking at all of a viewer's is one pass over dense pages (decision 0013).  They
are no models and no migration: a server without pgvector has none, search then goes by words alone,
and the next `studybuddy migrate` makes them once the extension is there.
"""

from dataclasses import dataclass

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

log = structlog.get_logger()

DIMENSIONS = 384
TABLES = ("transcription_vectors", "page_vectors")
_OLDEST_VECTOR = (0, 8)
"""pgvector's first version that goes on where a filter leaves too little of what it has found."""
_INSUFFICIENT_PRIVILEGE = "42501"
_VECTORS = (
    f"""
    CREATE TABLE IF NOT EXISTS transcription_vectors (
        transcription_id uuid NOT NULL,
        chunk_index integer NOT NULL,
        embedding halfvec({DIMENSIONS}) NOT NULL,
        CONSTRAINT pk_transcription_vectors PRIMARY KEY (transcription_id, chunk_index),
        CONSTRAINT fk_transcription_vectors_chunk FOREIGN KEY (transcription_id, chunk_index)
            REFERENCES transcription_chunks ON DELETE CASCADE
    )
    """,
    f"""
    CREATE TABLE IF NOT EXISTS page_vectors (
        document_id uuid NOT NULL,
        page integer NOT NULL,
        chunk_index integer NOT NULL,
        embedding halfvec({DIMENSIONS}) NOT NULL,
        CONSTRAINT pk_page_vectors PRIMARY KEY (document_id, page, chunk_index),
        CONSTRAINT fk_page_vectors_chunk FOREIGN KEY (document_id, page, chunk_index)
            REFERENCES document_pages ON DELETE CASCADE
    )
    """,
    *(f"ALTER TABLE {table} ALTER embedding SET STORAGE PLAIN" for table in TABLES),
    *(
        f"CREATE INDEX IF NOT EXISTS idx_{table}_embedding ON {table}"
        " USING hnsw (embedding halfvec_cosine_ops)"
        for table in TABLES
    ),
)
_AVAILABLE = text(
    "SELECT coalesce((SELECT extversion FROM pg_extension WHERE extname = :name),"
    " (SELECT default_version FROM pg_available_extensions WHERE name = :name))"
)
PRESENT = """
    to_regclass('transcription_vectors') IS NOT NULL
        AND to_regclass('page_vectors') IS NOT NULL AS vectors,
    to_regprocedure('similarity(text,text)') IS NOT NULL AS likeness
"""
"""Columns of any statement: what `Extensions` tells."""
_PRESENT = text(f"SELECT {PRESENT}")


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the database can do beyond words: ``vectors`` of meaning, ``likeness`` of words."""

    vectors: bool
    likeness: bool


async def extensions(session: AsyncSession | AsyncConnection) -> Extensions:
    """Return what the database has been made able to do."""
    row = (await session.execute(_PRESENT)).one()
    return Extensions(row.vectors, row.likeness)


async def make(connection: AsyncConnection) -> None:
    """Make what the server's extensions allow; again, only look.

    What they do not allow is logged, and search does without it.
    """
    if await _has_extension(connection, "vector", _OLDEST_VECTOR):
        for statement in _VECTORS:
            await connection.execute(text(statement))
    await _has_extension(connection, "pg_trgm", ())


async def _has_extension(connection: AsyncConnection, name: str, oldest: tuple[int, ...]) -> bool:
    """Create the extension where the server has it, young enough, and lets this role."""
    version = await connection.scalar(_AVAILABLE, {"name": name})
    if version is None or tuple(map(int, version.split("."))) < oldest:
        log.warning("extension_missing", extension=name, version=version)
        return False
    try:
        async with connection.begin_nested():
            await connection.execute(text(f"CREATE EXTENSION IF NOT EXISTS {name}"))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        log.warning("extension_not_permitted", extension=name)
        return False
    return True
