"""Transcripts in storage: each transcription's own payload, and the lecture's current one.

Objects are put before the row that names them, and deleted after it is gone.
"""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from sqlalchemy import select

from app.db.models import Lecture, Transcription
from app.services.kernel.kept_alive import kept_alive
from app.services.kernel.storage_keys import transcript_keys, transcription_key
from app.services.kernel.unit_of_work import UnitOfWork
from app.services.transcripts.read import best_of
from app.storage.protocol import ObjectStore
from app.transcript.exports import to_vtt
from app.transcript.model import Transcript
from app.transcript.payload import from_json, to_json

_CHUNK_BYTES = 256 * 1024


async def load(storage: ObjectStore, storage_key: str) -> tuple[bytes, Transcript]:
    """Return the payload as it is stored, and what it says."""
    content = await load_bytes(storage, storage_key)
    # In a thread: of an hour's words it takes a tenth of a second.
    return content, await asyncio.to_thread(from_json, content)


async def load_bytes(storage: ObjectStore, storage_key: str) -> bytes:
    """Return the payload as it is stored."""
    async with storage.open_file(storage_key) as opened:
        return b"".join([chunk async for chunk in opened.chunks])


async def store(storage: ObjectStore, transcription_id: UUID, transcript: Transcript) -> str:
    """Put the payload into its place, and return its key."""
    content = await asyncio.to_thread(to_json, transcript)
    key = transcription_key(transcription_id)
    await storage.store_file(key, _chunks(content))
    return key


async def settle_current(unit: UnitOfWork, storage: ObjectStore, lecture: Lecture) -> list[str]:
    """Put the best transcription of the locked lecture where its current one is looked for.

    Returns the keys of objects to delete after the commit, where there is none any more.
    """
    await unit.session.flush()
    keys = payload_key, vtt_key = transcript_keys(lecture.id)
    best = select(Transcription.storage_key).where(Transcription.id.in_(best_of(lecture.id)))
    source_key = await unit.session.scalar(best)
    if source_key is None:
        lecture.transcript_storage_key = None
        return list(keys)
    async with kept_alive(unit.session):
        content, transcript = await load(storage, source_key)
        vtt = await asyncio.to_thread(to_vtt, transcript)
        await storage.store_file(payload_key, _chunks(content))
        await storage.store_file(vtt_key, _chunks(vtt.encode()))
    lecture.transcript_storage_key = payload_key
    return []


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK_BYTES):
        yield content[start : start + _CHUNK_BYTES]
