"""Signed file links: HMAC-SHA256 over the kind and id of what is read, the user whose access the
link uses, and an expiry.

A link carries no right of its own: it stands in for its user, so it loses its force when that user
loses the document.
"""

import hashlib
import hmac
import re
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from uuid import UUID

from app.auth.secret_files import read_or_create
from app.errors import Unauthenticated
from app.settings import Settings

_VERSION = "studybuddy-file-link-2"
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)
_REFUSAL = "This link is not valid or has expired."


def load_secret(settings: Settings) -> bytes:
    """Return SECRET_KEY or, in development, a random key kept in DATA_DIR (mode 0600)."""
    if settings.secret_key:
        return settings.secret_key.encode()
    return read_or_create(settings.data_path / "secret-key", lambda: secrets.token_bytes(32))


def steady_expiry(now: float, ttl_seconds: int) -> int:
    """Return when a link that lives for so long, and is asked for now, expires: since the epoch.

    The lives of links begin at multiples of half their length: whoever asks again within the first
    half of one gets that very link, whichever process answers, and at least half of it is left.
    """
    half = ttl_seconds // 2
    return int(now) // half * half + ttl_seconds


class LinkSigner:
    """Signs and checks the query strings of file links."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, kind: str, item_id: UUID, user_id: UUID, expires_at: int) -> str:
        """Return the query string that lets its holder read the item's file until ``expires_at``.

        A link made for one ``kind`` of file is good for no other, whatever the id.  ``expires_at``
        is in whole seconds since the epoch.
        """
        signature = self._signature(kind, item_id, user_id, expires_at)
        return f"expires={expires_at}&user={user_id}&signature={signature}"

    def verify(self, kind: str, item_id: UUID, parameters: Mapping[str, str]) -> UUID:
        """Return the user whom the link stands in for, or raise `Unauthenticated`."""
        expires = parameters.get("expires", "")
        signature = parameters.get("signature", "")
        try:
            user_id = UUID(parameters.get("user", ""))
        except ValueError:
            raise Unauthenticated(_REFUSAL) from None
        if not _SECONDS.fullmatch(expires):
            raise Unauthenticated(_REFUSAL)
        expected = self._signature(kind, item_id, user_id, int(expires))
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise Unauthenticated(_REFUSAL)
        if time.time() >= int(expires):
            raise Unauthenticated(_REFUSAL)
        return user_id

    def _signature(self, kind: str, item_id: UUID, user_id: UUID, expires_at: int) -> str:
        message = f"{_VERSION}\n{kind}\n{item_id}\n{user_id}\n{expires_at}".encode()
        digest = hmac.digest(self._secret, message, hashlib.sha256)
        return urlsafe_b64encode(digest).rstrip(b"=").decode()
