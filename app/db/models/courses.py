"""Courses."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ForeignKey,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models.base import Base, new_id, now


class Course(Base):
    """A course of the catalogue, or one user's own where ``owner_id`` is set."""

    __tablename__ = "courses"
    __table_args__ = (UniqueConstraint("code", name="uq_courses_code"),)

    id: Mapped[UUID] = new_id()
    code: Mapped[str]
    title: Mapped[str]
    instructor: Mapped[str | None]
    is_official: Mapped[bool] = mapped_column(server_default=text("false"))
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()
