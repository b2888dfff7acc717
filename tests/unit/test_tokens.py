"""Session tokens: what is accepted, and that nothing but `Unauthenticated` ever comes out."""

import asyncio
import base64
import hashlib
import hmac
import json
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from app.auth.issuer import DEVELOPMENT_ISSUER, DevelopmentIssuer
from app.auth.keys import StaticKeySource, VerificationKey
from app.auth.tokens import TokenVerifier
from app.errors import ConfigurationError, Unauthenticated
from app.settings import load_settings

ISSUER = "https://clerk.example.org"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
KEYS = StaticKeySource(
    {
        "rsa": VerificationKey("RS256", RSA_KEY.public_key()),
        "ec": VerificationKey("ES256", EC_KEY.public_key()),
    }
)


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    values = {"iss": ISSUER, "sub": "user_1", "iat": now, "nbf": now, "exp": now + 60}
    values |= changes
    return {name: value for name, value in values.items() if value is not ...}


def token(
    key: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "rsa", **changes: Any
) -> str:
    headers = {"kid": kid} if kid is not None else None
    return jwt.encode(claims(**changes), key, algorithm, headers=headers)


def verifier(**options: Any) -> TokenVerifier:
    return TokenVerifier(ISSUER, KEYS, **options)


def unsigned(header: dict[str, Any], payload: Any, signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts)


async def test_a_good_token_names_its_viewer() -> None:
    viewer = await verifier().verify(token())
    assert viewer.id == uuid5(uuid5(NAMESPACE_URL, ISSUER), "user_1")
    assert (viewer.issuer, viewer.subject, viewer.is_admin) == (ISSUER, "user_1", False)
    assert viewer.expires_at == pytest.approx(time.time() + 60, abs=2)


async def test_a_subject_that_is_a_uuid_is_the_id() -> None:
    subject = uuid4()
    assert (await verifier().verify(token(sub=str(subject)))).id == subject


async def test_es256_is_accepted() -> None:
    assert (await verifier().verify(token(EC_KEY, "ES256", "ec"))).subject == "user_1"


async def test_admins_are_named_by_id_or_by_subject() -> None:
    viewer_id = uuid5(uuid5(NAMESPACE_URL, ISSUER), "user_1")
    assert (await verifier(admin_ids=frozenset({viewer_id})).verify(token())).is_admin
    assert (await verifier(admin_subjects=frozenset({"user_1"})).verify(token())).is_admin
    assert not (await verifier(admin_subjects=frozenset({"user_2"})).verify(token())).is_admin


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example.org"},
        {"iss": ISSUER + "/"},
        {"iss": ...},
        {"exp": ...},
        {"nbf": ...},
        {"iat": ...},
        {"sub": ...},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": 7},
        {"sub": None},
        {"sub": ["user_1"]},
        {"sub": "a\x00b"},
        {"sub": "\ud800"},
        {"exp": time.time() - 6},
        {"nbf": time.time() + 3600},
        {"iat": time.time() + 3600},
        {"exp": "9999999999"},
        {"exp": True},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"nbf": float("-inf")},
        {"exp": {}},
    ],
)
async def test_a_signed_token_with_bad_claims_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await verifier().verify(token(**changes))


async def test_the_leeway_is_five_seconds() -> None:
    now = time.time()
    assert await verifier().verify(token(exp=now - 3))
    assert await verifier().verify(token(nbf=now + 3, iat=now + 3))
    with pytest.raises(Unauthenticated):
        await verifier().verify(token(exp=now - 7))


@pytest.mark.parametrize(
    ("parties", "azp", "accepted"),
    [
        ((), "https://anything.example.org", True),
        (("https://app.example.org",), ..., True),
        (("https://app.example.org",), None, True),
        (("https://app.example.org",), "https://app.example.org", True),
        (("https://app.example.org",), "https://evil.example.org", False),
        (("https://app.example.org",), "", False),
        (("https://app.example.org",), ["https://app.example.org"], False),
        (("https://app.example.org",), {}, False),
    ],
)
async def test_azp_is_checked_where_both_are_there(
    parties: tuple[str, ...], azp: Any, accepted: bool
) -> None:
    checking = verifier(authorized_parties=frozenset(parties))
    if accepted:
        assert await checking.verify(token(azp=azp))
    else:
        with pytest.raises(Unauthenticated):
            await checking.verify(token(azp=azp))


@pytest.mark.parametrize(
    "forged",
    [
        token(OTHER_RSA_KEY),
        token(kid="unknown"),
        token(kid=None),
        token(algorithm="RS512"),
        token(algorithm="PS256"),
        token(EC_KEY, "ES256", "rsa"),
        token(RSA_KEY, "RS256", "ec"),
        unsigned({"alg": "none", "kid": "rsa"}, claims()),
        unsigned({"alg": ["RS256"], "kid": "rsa"}, claims(), b"x"),
        unsigned({"alg": "RS256", "kid": {"a": 1}}, claims(), b"x"),
        unsigned({"alg": "RS256", "kid": "rsa", "b64": False, "crit": ["b64"]}, claims(), b"x"),
        unsigned({"alg": "RS256", "kid": "rsa", "crit": ["exp"]}, claims(), b"x"),
        unsigned({"alg": "RS256", "kid": "rsa"}, [1], b"x"),
        token()[:-4] + "AAAA",
        token() + "=",
        " " + token(),
        token() + ".x",
        token(sub="y" * 9000),
        "",
        ".",
        "..",
        "a.b.c",
        "é.é.é",
        "\ud800",
        "\x00",
    ],
)
async def test_forged_and_broken_tokens_are_refused(forged: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier().verify(forged)


async def test_a_public_key_is_no_shared_secret() -> None:
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa"}').rstrip(b"=")
    payload = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    signature = hmac.digest(pem, header + b"." + payload, hashlib.sha256)
    forged = b".".join([header, payload, base64.urlsafe_b64encode(signature).rstrip(b"=")])
    with pytest.raises(Unauthenticated):
        await verifier().verify(forged.decode())


HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "zip"]),
    st.sampled_from(["RS256", "ES256", "none", "HS256", "rsa", "ec"])
    | st.none()
    | st.booleans()
    | st.integers()
    | st.lists(st.text(), max_size=2),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.builds(unsigned, HEADERS, JSON_VALUES, st.binary(max_size=300)))
def test_no_text_raises_anything_else(hostile: str) -> None:
    with pytest.raises(Unauthenticated):
        asyncio.run(verifier().verify(hostile))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*claims(), "azp", "aud", "jti"]), JSON_VALUES))
def test_no_signed_claims_raise_anything_else(changes: dict[str, Any]) -> None:
    signed = jwt.api_jws.encode(
        json.dumps(claims() | changes).encode(), RSA_KEY, "RS256", headers={"kid": "rsa"}
    )
    try:
        viewer = asyncio.run(verifier(authorized_parties=frozenset({"a"})).verify(signed))
    except Unauthenticated:
        return
    assert isinstance(viewer.id, UUID)


class CountingKeys(StaticKeySource):
    """Counts how often a key was asked for."""

    asked = 0

    async def find(self, key_id: str) -> VerificationKey | None:
        self.asked += 1
        return await super().find(key_id)


async def test_a_known_token_is_not_checked_again_until_it_expires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = CountingKeys({"rsa": VerificationKey("RS256", RSA_KEY.public_key())})
    checking = TokenVerifier(ISSUER, keys, leeway_seconds=0)
    now = time.time()
    long, short = token(exp=now + 3600), token(exp=now + 45)
    for each in (long, short, long, short):
        assert await checking.verify(each)
    assert keys.asked == 2

    def it_is_later_by(seconds: float) -> None:
        monkeypatch.setattr("app.auth.tokens.time", SimpleNamespace(time=lambda: now + seconds))

    it_is_later_by(46)
    assert await checking.verify(long)
    assert keys.asked == 2
    assert await checking.verify(short)
    assert keys.asked == 3
    it_is_later_by(3000)  # What is good for long is remembered for a minute.
    assert await checking.verify(long)
    assert keys.asked == 4


async def test_what_is_remembered_is_bounded() -> None:
    checking = verifier()
    secret = EC_KEY
    for number in range(2100):
        await checking.verify(token(secret, "ES256", "ec", sub=f"user_{number}"))
    assert len(checking._remembered) == 2048


# --- the development issuer -----------------------------------------------------------------


async def test_the_development_issuer_signs_what_its_verifier_accepts(tmp_path: Path) -> None:
    checking = TokenVerifier.from_settings(load_settings(data_dir=tmp_path))
    issuer = DevelopmentIssuer.load(tmp_path)
    admin = await checking.verify(issuer.issue("admin"))
    ada = await checking.verify(issuer.issue("ada", ttl_seconds=60))
    assert admin.is_admin
    assert not ada.is_admin
    assert (ada.issuer, ada.subject) == (DEVELOPMENT_ISSUER, "ada")
    with pytest.raises(Unauthenticated):
        await checking.verify(issuer.issue("ada", ttl_seconds=-10))


async def test_another_installations_tokens_are_refused(tmp_path: Path) -> None:
    checking = TokenVerifier.from_settings(load_settings(data_dir=tmp_path / "a"))
    with pytest.raises(Unauthenticated):
        await checking.verify(DevelopmentIssuer.load(tmp_path / "b").issue("ada"))


def test_the_key_is_private_and_stays(tmp_path: Path) -> None:
    first = DevelopmentIssuer.load(tmp_path / "data").issue("ada")
    path = tmp_path / "data" / "development-issuer.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    second = DevelopmentIssuer.load(tmp_path / "data").issue("ada")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert jwt.get_unverified_header(first) == jwt.get_unverified_header(second)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_processes_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        issuers = list(threads.map(DevelopmentIssuer.load, [tmp_path] * 8))
    assert len({jwt.get_unverified_header(i.issue("a"))["kid"] for i in issuers}) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["development-issuer.pem"]


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_a_broken_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "development-issuer.pem").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"DATA_DIR: development-issuer\.pem"):
        DevelopmentIssuer.load(tmp_path)


def test_a_data_dir_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigurationError, match="DATA_DIR") as caught:
        DevelopmentIssuer.load(tmp_path / "data")
    assert str(tmp_path) not in caught.value.message


def test_the_clerk_jwks_address_follows_from_the_issuer(tmp_path: Path) -> None:
    checking = TokenVerifier.from_settings(
        load_settings(data_dir=tmp_path, auth_issuer=ISSUER + "/")
    )
    assert checking._keys._url == ISSUER + "/.well-known/jwks.json"  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
