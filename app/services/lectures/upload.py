"""Taking in recordings: stored as they arrive, deduplicated by their content, then a job."""

from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db.models import Lecture, UserLecture
from app.domain import FieldErrorCode, LectureSource, LectureStatus
from app.errors import InvalidInput, RateLimited
from app.ingest.net.sniffing import form_of
from app.services.kernel.incoming import IncomingFile, checked_filename
from app.services.kernel.objects import delete_objects
from app.services.kernel.quotas import Allowance, Quota
from app.services.kernel.storage_keys import upload_key
from app.services.kernel.unit_of_work import Work
from app.services.kernel.users import ensure_user
from app.services.lectures import states
from app.services.lectures.request import RequestedLecture, changed, checked_title, enqueue
from app.services.topics.change import judge_what_came
from app.storage.protocol import ObjectStore, StoredFileMeta

EXTENSIONS = [
    "mp3",
    "wav",
    "m4a",
    "aac",
    "ogg",
    "oga",
    "opus",
    "flac",
    "webm",
    "mp4",
    "m4v",
    "mov",
    "mkv",
    "mka",
]
_HEAD_BYTES = 512
_NOT_TAKEN = (b"\x0bw", b"\x47")
"""Media that links may lead to, and that nobody uploads: AC-3 alone, MPEG-TS."""


async def upload_lecture(
    work: Work,
    storage: ObjectStore,
    viewer: Viewer,
    course_id: UUID,
    file: IncomingFile,
    title: str | None,
    allowance: Allowance,
) -> RequestedLecture:
    """Store the recording and link the viewer to its lecture; the same bytes are one in a course.

    Over a quota it is refused: before a byte is read where that is known then, and else with
    nothing kept.  The object comes first and the row second; after a failed transaction the object
    stays for the sweep, since a commit whose answer was lost may have kept the row.
    """
    filename, title = _checked_filename(file), checked_title(title)
    await allowance.require(Quota.UPLOADS)
    async with work.sessions() as session:
        chunks = await allowance.require_room(session, _media_only(file.chunks))
    lecture_id = uuid4()
    stored = await storage.store_file(upload_key(lecture_id), chunks)
    try:
        requested, is_kept = await _record(
            work,
            viewer,
            _values(lecture_id, course_id, title, stored),
            filename,
            allowance,
        )
    except (InvalidInput, RateLimited):  # over a quota: known before the commit
        await delete_objects(storage, [stored.key])
        raise
    if not is_kept:
        await delete_objects(storage, [stored.key])
    return requested


def _values(
    lecture_id: UUID, course_id: UUID, title: str | None, stored: StoredFileMeta
) -> dict[str, object]:
    """Return the columns of a new lecture; its name is a URN of its content."""
    name = f"urn:sha256:{stored.checksum}"
    return {
        "id": lecture_id,
        "course_id": course_id,
        "panopto_url": name,
        "canonical_url": name,
        "title": title,
        "source": LectureSource.UPLOAD,
        "checksum": stored.checksum,
        "upload_storage_key": stored.key,
        "upload_bytes": stored.size_bytes,
    }


async def _record(
    work: Work,
    viewer: Viewer,
    values: dict[str, object],
    filename: str,
    allowance: Allowance,
) -> tuple[RequestedLecture, bool]:
    """Make or find the row and link the viewer; return whether the new object is the row's.

    One that has FAILED is worked on again, with these bytes: its own are gone.
    """
    async with work.begin() as unit:
        await ensure_user(unit.session, viewer)
        lecture, created = await _insert_or_find(unit.session, values)
        link = insert(UserLecture).values(
            user_id=viewer.id, lecture_id=lecture.id, filename=filename
        )
        renamed = link.on_conflict_do_update(
            index_elements=["user_id", "lecture_id"], set_={"filename": filename}
        )
        await unit.session.execute(renamed)
        if not created:
            await judge_what_came(unit, viewer)
        await allowance.require_within(unit.session)
        await allowance.spend(Quota.UPLOADS)
        is_kept = created
        if lecture.status is LectureStatus.FAILED:
            # Under its own key: whoever let the last file go may be about to delete that.
            lecture.upload_storage_key, is_kept = str(values["upload_storage_key"]), True
            states.queue_again(lecture)
        if lecture.status is LectureStatus.PENDING:
            await enqueue(unit, lecture, viewer)
        return RequestedLecture(await changed(unit, viewer, lecture), created), is_kept


async def _insert_or_find(session: AsyncSession, values: dict[str, object]) -> tuple[Lecture, bool]:
    """Insert the lecture, or lock the one of these bytes; return it and which it was.

    One that is deleted between the conflicting insert and the lock is no longer in the way, and
    the insert is tried again.
    """
    same = (
        Lecture.course_id == values["course_id"],
        Lecture.canonical_url == values["canonical_url"],
    )
    while True:
        made = insert(Lecture).values(values).on_conflict_do_nothing().returning(Lecture)
        lecture = await session.scalar(made)
        if lecture is not None:
            return lecture, True
        found = await session.scalar(select(Lecture).where(*same).with_for_update())
        if found is not None:
            return found, False


def _checked_filename(file: IncomingFile) -> str:
    name = checked_filename(file)
    if PurePosixPath(name).suffix.lower().removeprefix(".") not in EXTENSIONS:
        message = f"The file's name must end in one of: {', '.join(EXTENSIONS)}."
        raise InvalidInput.at("file", message, FieldErrorCode.UNSUPPORTED)
    return name


async def _media_only(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass the stream on, or raise `InvalidInput` where it does not begin as a recording does."""
    head, is_judged = b"", False
    async for chunk in chunks:
        if is_judged:
            yield chunk
            continue
        head += chunk
        if len(head) >= _HEAD_BYTES:
            _require_media(head)
            is_judged = True
            yield head
    if not is_judged:
        _require_media(head)
        yield head


def _require_media(head: bytes) -> None:
    if not head:
        raise InvalidInput.at("file", "The file is empty.", FieldErrorCode.REQUIRED)
    if form_of(head) != "media" or head.startswith(_NOT_TAKEN):
        message = "The file is no recording of a kind that is read."
        raise InvalidInput.at("file", message, FieldErrorCode.UNSUPPORTED)
