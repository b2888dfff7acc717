"""Users, lectures, documents and transcriptions, as rows, for what only reads or orders them."""

from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.auth.viewer import Viewer
from app.db.models import Document, Lecture, Transcription, User, UserDocument, UserLecture
from app.domain import LectureFailure, LectureStatus, TranscriptionSource

Sessions = async_sessionmaker[AsyncSession]


def new_viewer(*, is_admin: bool = False) -> Viewer:
    """Return a viewer of whom there is no row yet."""
    id_ = uuid4()
    return Viewer(id_, "issuer", str(id_), is_admin=is_admin, expires_at=0)


async def add_user(sessions: Sessions, *, is_admin: bool = False) -> Viewer:
    """Add a user."""
    viewer = new_viewer(is_admin=is_admin)
    async with sessions.begin() as session:
        session.add(User(id=viewer.id, issuer=viewer.issuer, subject=viewer.subject))
    return viewer


async def add_lecture(
    sessions: Sessions,
    *viewers: Viewer,
    course_id: UUID | None = None,
    status: LectureStatus = LectureStatus.COMPLETED,
    session_id: str | None = None,
) -> UUID:
    """Add a lecture that the viewers are linked to."""
    id_ = uuid4()
    url = f"https://example.org/{id_}.mp4"
    async with sessions.begin() as session:
        session.add(
            Lecture(
                id=id_,
                course_id=course_id or uuid4(),
                panopto_session_id=session_id,
                panopto_url=url,
                canonical_url=url,
                status=status,
                failure=LectureFailure.NETWORK if status is LectureStatus.FAILED else None,
            )
        )
        await session.flush()
        session.add_all(UserLecture(user_id=viewer.id, lecture_id=id_) for viewer in viewers)
    return id_


async def add_document(sessions: Sessions, *viewers: Viewer) -> UUID:
    """Add a document that the viewers are linked to."""
    id_ = uuid4()
    async with sessions.begin() as session:
        session.add(
            Document(
                id=id_,
                course_id=uuid4(),
                filename="a.pdf",
                storage_key=f"documents/{id_}.pdf",
                checksum=id_.hex * 2,
                mime_type="application/pdf",
                size_bytes=5,
            )
        )
        await session.flush()
        session.add_all(
            UserDocument(user_id=viewer.id, document_id=id_, filename="mine.pdf")
            for viewer in viewers
        )
    return id_


async def add_transcription(sessions: Sessions, lecture_id: UUID, model: str = "base") -> UUID:
    """Add a transcription of the lecture that waits."""
    id_ = uuid4()
    source = TranscriptionSource.SPEECH_RECOGNITION
    async with sessions.begin() as session:
        session.add(Transcription(id=id_, lecture_id=lecture_id, source=source, model_name=model))
    return id_
