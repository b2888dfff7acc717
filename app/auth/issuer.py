"""The development issuer: signs session tokens with a key of this installation's DATA_DIR.

Its tokens go through the same verifying code as Clerk's; only the source of the key differs.
"""

import hashlib
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from app.auth.keys import StaticKeySource, VerificationKey
from app.auth.secret_files import read_or_create
from app.errors import ConfigurationError

DEVELOPMENT_ISSUER = "https://development.studybuddy.invalid"
ADMIN_SUBJECT = "admin"

_KEY_FILE = "development-issuer.pem"


class DevelopmentIssuer:
    """Signs tokens for any name that is asked for: never for production."""

    def __init__(self, private_key: RSAPrivateKey) -> None:
        self._private_key = private_key
        public = private_key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        self._key_id = hashlib.sha256(public).hexdigest()[:16]

    @staticmethod
    def has_key(data_path: Path) -> bool:
        """Whether there is a key under this DATA_DIR already, or `load` would make one."""
        return (data_path / _KEY_FILE).exists()

    @classmethod
    def load(cls, data_path: Path) -> "DevelopmentIssuer":
        """Read the key kept under DATA_DIR, making it first where there is none (mode 0600)."""
        content = read_or_create(data_path / _KEY_FILE, _new_key)
        try:
            # It is our own: to prove its primes again would take longer than all else at the start.
            key = load_pem_private_key(content, None, unsafe_skip_rsa_key_validation=True)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise ConfigurationError(f"DATA_DIR: {_KEY_FILE} holds no RSA key; remove it")
        return cls(key)

    def issue(self, user: str, ttl_seconds: int = 3600) -> str:
        """Return a session token of the user that expires in ``ttl_seconds``."""
        now = int(time.time())
        claims = {
            "iss": DEVELOPMENT_ISSUER,
            "sub": user,
            "iat": now,
            "nbf": now,
            "exp": now + ttl_seconds,
        }
        return jwt.encode(claims, self._private_key, "RS256", headers={"kid": self._key_id})

    def key_source(self) -> StaticKeySource:
        """Return the one key that its tokens are checked with."""
        key = VerificationKey("RS256", self._private_key.public_key())
        return StaticKeySource({self._key_id: key})


def _new_key() -> bytes:
    key = generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
