"""Leaving and removing lectures (`app.services.kernel.links`)."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db import ledger
from app.db.models import CollectionItem, Lecture, Transcription, UserLecture
from app.domain import JobKind
from app.errors import NotFound
from app.services.collections.change import leave_collections
from app.services.kernel.access import require_admin
from app.services.kernel.links import Removal, Shared, leave, require_some
from app.services.kernel.objects import delete_objects
from app.services.kernel.storage_keys import audio_key, transcript_keys
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.services.lectures.attempt_files import kept_keys
from app.services.lectures.read import linked, real_id, select_real
from app.storage.protocol import ObjectStore


async def unlink_lectures(
    work: Work,
    storage: ObjectStore,
    scratch: ObjectStore,
    viewer: Viewer,
    lecture_ids: Sequence[UUID],
) -> list[Removal | None]:
    """Remove the viewer's links; the last one out stops a download and removes everything.

    The answer has one for each id, in their order: None where the viewer has no such lecture.
    """
    require_some(lecture_ids)
    removals = await _unlink_lectures(work, storage, scratch, viewer, set(lecture_ids))
    # Twice: a lecture that is merged away while this waits for its lock goes by another id now.
    if missing := set(lecture_ids) - removals.keys():
        removals |= await _unlink_lectures(work, storage, scratch, viewer, missing)
    return [removals.get(lecture_id) for lecture_id in lecture_ids]


async def _unlink_lectures(
    work: Work, storage: ObjectStore, scratch: ObjectStore, viewer: Viewer, ids: set[UUID]
) -> dict[UUID, Removal]:
    """Return what became of those that the viewer was linked to, by the id that was asked for."""
    async with work.begin() as unit:
        # In the order of their ids, so that two who unlink the same ones never wait in a ring.
        query = select_real(ids).where(linked(viewer)).order_by(Lecture.id)
        found = await unit.session.execute(query.with_for_update(of=Lecture))
        asked = {row[0]: row[1] for row in found}
        own = {lecture.id for lecture in asked.values()}
        await leave_collections(unit.session, CollectionItem.lecture_id, own, viewer)
        removals, keys = await leave(unit, viewer, SHARED, asked.values())
    await delete_objects(storage, keys)
    gone = [removal.item_id for removal in removals.values() if removal.deleted]
    await delete_objects(scratch, [key for id_ in gone for key in kept_keys(id_)])
    return {id_: removals[item.id] for id_, item in asked.items() if item.id in removals}


async def delete_lecture(
    work: Work, storage: ObjectStore, scratch: ObjectStore, viewer: Viewer, lecture_id: UUID
) -> UUID:
    """Remove the lecture for all users at once; admins only."""
    require_admin(viewer)
    async with work.begin() as unit:
        lecture = await _locked_lecture(unit.session, lecture_id)
        await unit.wake_lecture(lecture.id)
        await leave_collections(unit.session, CollectionItem.lecture_id, [lecture.id])
        keys = await remove_lectures(unit, [lecture])
        removed = lecture.id
    await delete_objects(storage, keys)
    await delete_objects(scratch, kept_keys(removed))
    return removed


async def remove_lectures(unit: UnitOfWork, lectures: Sequence[Lecture]) -> list[str]:
    """Delete the locked rows and their jobs; return the keys of their objects, to delete after."""
    if not lectures:
        return []
    ids = [lecture.id for lecture in lectures]
    hanging = select(Transcription.id, Transcription.storage_key)
    hanging = hanging.where(Transcription.lecture_id.in_(ids)).order_by(Transcription.id)
    transcriptions = (await unit.session.execute(hanging.with_for_update())).all()
    for kind, subjects in (
        (JobKind.DOWNLOAD_LECTURE, ids),
        (JobKind.TRANSCRIBE, [row.id for row in transcriptions]),
    ):
        for job_id in await ledger.close_jobs(unit.session, kind, subjects):
            unit.wake("job", job_id)
    await unit.session.execute(delete(Lecture).where(Lecture.id.in_(ids)))
    keys = {
        key
        for each in lectures
        for key in (
            audio_key(each.id),
            each.audio_storage_key,
            each.upload_storage_key,
            *transcript_keys(each.id),
        )
    } | {row.storage_key for row in transcriptions}
    return [key for key in keys if key is not None]


async def _locked_lecture(session: AsyncSession, lecture_id: UUID) -> Lecture:
    query = select(Lecture).where(Lecture.id == real_id(lecture_id)).with_for_update()
    # Twice: a lecture that is merged away while this waits for its lock goes by another id now.
    lecture = await session.scalar(query) or await session.scalar(query)
    if lecture is None:
        raise NotFound("lecture", lecture_id)
    return lecture


SHARED = Shared("lecture", UserLecture, UserLecture.lecture_id, remove_lectures)
