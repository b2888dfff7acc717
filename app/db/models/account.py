"""Users."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped

from app.db.models.base import Base, new_id, now


class User(Base):
    """Someone whose token we have seen and needed a row for."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: Mapped[UUID] = new_id()
    issuer: Mapped[str]
    subject: Mapped[str]
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()
