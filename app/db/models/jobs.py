"""The ledger of background work."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Index,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models.base import Base, new_id, now
from app.domain import JobState

NOBODY = UUID(int=0)
"""Whose turn work takes that no user asked for."""


class Job(Base):
    """A row of the ledger: when a piece of background work runs, and who holds it.

    Scheduling only; what became of a lecture is read from the lecture.  ``attempt`` counts the
    transient failures that were tried again, ``crashes`` the workers that died holding it.
    ``user_id`` is whose waiting work it counts as when workers take turns over users (`NOBODY`'s
    where it is no user's).  ``holder`` names the process that claimed it last.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "uq_jobs_kind_subject_id_open",
            "kind",
            "subject_id",
            unique=True,
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
        Index(
            "idx_jobs_queued",
            "kind",
            "user_id",
            "run_at",
            "id",
            postgresql_where=text("state = 'queued' AND run_at <= created_at"),
        ),
        Index(
            "idx_jobs_put_off",
            "kind",
            "run_at",
            "id",
            postgresql_where=text("state = 'queued' AND run_at > created_at"),
        ),
        # Not on lease_until: few rows run at once, and a heartbeat that changes an indexed column
        # would write every index of the row anew.  For the same reason no heartbeat changes
        # updated_at (its trigger ignores lease_until).
        Index("idx_jobs_running", "kind", postgresql_where=text("state = 'running'")),
        Index(
            "idx_jobs_finished",
            "updated_at",
            postgresql_where=text("state IN ('done', 'failed', 'cancelled')"),
        ),
        CheckConstraint(
            "(state = 'running') = (lease_token IS NOT NULL)"
            " AND (lease_token IS NULL) = (lease_until IS NULL)",
            name="lease",
        ),
        CheckConstraint("attempt >= 0 AND crashes >= 0", name="counts"),
        {"postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[UUID] = new_id()
    kind: Mapped[str]
    subject_id: Mapped[UUID]
    user_id: Mapped[UUID] = mapped_column(server_default=str(NOBODY))
    state: Mapped[JobState] = mapped_column(server_default=JobState.QUEUED.value)
    run_at: Mapped[datetime] = now()
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    crashes: Mapped[int] = mapped_column(server_default=text("0"))
    lease_token: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    holder: Mapped[str | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()
