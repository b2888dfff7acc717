"""Session tokens: from a Clerk-style JWT to a `Viewer`, or `Unauthenticated` and nothing else.

The claims are those of Clerk's session tokens (https://clerk.com/docs/backend-requests/resources/
session-tokens): ``azp`` is the origin that the session was made for and takes the place of ``aud``.
"""

import math
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import jwt
import structlog

from app.auth.issuer import ADMIN_SUBJECT, DEVELOPMENT_ISSUER, DevelopmentIssuer
from app.auth.keys import JwksKeySource, KeySource
from app.auth.viewer import Viewer, user_id
from app.errors import Unauthenticated
from app.settings import Settings

_log = structlog.get_logger(__name__)

_MAX_TOKEN_CHARACTERS = 8 * 1024
_MAX_SUBJECT_CHARACTERS = 255
_REQUIRED = ["exp", "nbf", "iat", "sub", "iss"]
# What a library may raise on hostile bytes, besides its own errors.
_BROKEN_TOKEN = (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError)

_REMEMBERED_TOKENS = 2048
_REMEMBERED_SECONDS = 60.0


class TokenVerifier:
    """Checks session tokens of one issuer.

    A token that was found good is remembered for up to a minute, so that a client's next request
    costs no signature check; it is never remembered past its own expiry, but a key that is
    withdrawn meanwhile takes that minute to lose its force.
    """

    def __init__(
        self,
        issuer: str,
        keys: KeySource,
        authorized_parties: frozenset[str] = frozenset(),
        admin_ids: frozenset[UUID] = frozenset(),
        admin_subjects: frozenset[str] = frozenset(),
        leeway_seconds: float = 5,
    ) -> None:
        self._issuer = issuer
        self._keys = keys
        self._authorized_parties = authorized_parties
        self._admin_ids = admin_ids
        self._admin_subjects = admin_subjects
        self._leeway_seconds = leeway_seconds
        self._remembered: dict[str, tuple[Viewer, float]] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> "TokenVerifier":
        """Build the verifier for AUTH_ISSUER or, in development without it, our own issuer.

        Raises `ConfigurationError` where there is neither.
        """
        parties = frozenset(settings.auth_authorized_parties)
        admin_ids = frozenset(settings.admin_user_ids)
        if settings.uses_development_issuer:
            keys = DevelopmentIssuer.load(settings.data_path).key_source()
            admins = frozenset({ADMIN_SUBJECT})
            return cls(DEVELOPMENT_ISSUER, keys, parties, admin_ids, admins)
        issuer = settings.auth_issuer or ""
        url = settings.auth_jwks_url or issuer.rstrip("/") + "/.well-known/jwks.json"
        return cls(issuer, JwksKeySource(url), parties, admin_ids)

    async def verify(self, token: str) -> Viewer:
        """Return whose session it is; raise `Unauthenticated` for anything that is not in order."""
        known, until = self._remembered.get(token, (None, 0.0))
        if known and time.time() < until:
            return known
        try:
            viewer = self._viewer(await self._verified_claims(token))
        except _BROKEN_TOKEN as error:
            _log.info("token.refused", reason=type(error).__name__)
            raise Unauthenticated from None
        if len(self._remembered) >= _REMEMBERED_TOKENS:
            # Oldest first, as a dict keeps its order.
            del self._remembered[next(iter(self._remembered))]
        ends_at = viewer.expires_at + self._leeway_seconds
        self._remembered[token] = viewer, min(ends_at, time.time() + _REMEMBERED_SECONDS)
        return viewer

    async def close(self) -> None:
        """Release the key source's connections."""
        await self._keys.close()

    async def _verified_claims(self, token: str) -> Mapping[str, Any]:
        if len(token) > _MAX_TOKEN_CHARACTERS or not token.isascii():
            raise jwt.DecodeError
        key_id = jwt.get_unverified_header(token).get("kid")
        key = await self._keys.find(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise jwt.InvalidKeyError
        return jwt.decode(
            token,
            key.public_key,
            algorithms=[key.algorithm],
            issuer=self._issuer,
            leeway=self._leeway_seconds,
            options={"require": _REQUIRED, "verify_aud": False},
        )

    def _viewer(self, claims: Mapping[str, Any]) -> Viewer:
        subject = claims["sub"]
        # Control characters and lone surrogates could not be stored as text.
        if not 0 < len(subject) <= _MAX_SUBJECT_CHARACTERS or not subject.isprintable():
            raise jwt.InvalidTokenError
        if not all(_is_time(claims[name]) for name in ("exp", "nbf", "iat")):
            raise jwt.DecodeError
        party = claims.get("azp")
        parties = self._authorized_parties
        if parties and party is not None and not (isinstance(party, str) and party in parties):
            raise jwt.InvalidAudienceError
        viewer_id = user_id(self._issuer, subject)
        is_admin = viewer_id in self._admin_ids or subject in self._admin_subjects
        return Viewer(viewer_id, self._issuer, subject, is_admin, float(claims["exp"]))


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
