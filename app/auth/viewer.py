"""The signed-in user, as every layer sees it."""

from dataclasses import dataclass
from uuid import NAMESPACE_URL, UUID, uuid5


@dataclass(frozen=True, slots=True)
class Viewer:
    """A verified session.

    ``expires_at`` is the token's ``exp`` in seconds since the epoch; a socket outlives it by the
    grace that the settings give.
    """

    id: UUID
    issuer: str
    subject: str
    is_admin: bool
    expires_at: float


def user_id(issuer: str, subject: str) -> UUID:
    """Return the user's id: the subject itself where it is a UUID, else derived from both names."""
    try:
        return UUID(subject)
    except ValueError:
        return uuid5(uuid5(NAMESPACE_URL, issuer), subject)
