"""Signed file links: what holds, and what every change of them does."""

import stat
import time
from pathlib import Path
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.auth.links import LinkSigner, load_secret, steady_expiry
from app.errors import Unauthenticated
from app.settings import load_settings

SIGNER = LinkSigner(b"a secret of this test")
DOCUMENT, USER = uuid4(), uuid4()


def signed(expires_in: int = 60) -> dict[str, str]:
    return dict(parse_qsl(SIGNER.sign("document", DOCUMENT, USER, int(time.time()) + expires_in)))


def test_a_link_stands_in_for_its_user() -> None:
    assert SIGNER.verify("document", DOCUMENT, signed()) == USER
    assert set(signed()) == {"expires", "user", "signature"}


def refused(
    document_id: UUID,
    parameters: dict[str, str],
    signer: LinkSigner = SIGNER,
    kind: str = "document",
) -> None:
    with pytest.raises(Unauthenticated, match="link"):
        signer.verify(kind, document_id, parameters)


def test_a_link_expires() -> None:
    refused(DOCUMENT, signed(0))
    refused(DOCUMENT, signed(-1))


@pytest.mark.parametrize(
    "changes",
    [
        {"expires": str(int(time.time()) + 3600)},
        {"expires": ""},
        {"expires": "9" * 5000},
        {"expires": "-1"},
        {"expires": "1e9"},
        {"expires": "٣"},
        {"user": str(uuid4())},
        {"user": ""},
        {"user": "x" * 36},
        {"signature": ""},
        {"signature": "A" * 43},
        {"signature": "é"},
        {"signature": "\ud800"},
    ],
)
def test_every_change_breaks_it(changes: dict[str, str]) -> None:
    refused(DOCUMENT, signed() | changes)


def test_it_holds_for_one_document_of_one_kind_and_one_secret() -> None:
    refused(uuid4(), signed())
    refused(DOCUMENT, signed(), kind="audio")
    refused(DOCUMENT, signed(), LinkSigner(b"another secret"))
    refused(DOCUMENT, {})


@given(st.integers(0, 2**33), st.integers(30, 3600))
def test_a_link_is_the_same_for_the_first_half_of_its_life(born: int, ttl: int) -> None:
    born -= born % (ttl // 2)
    assert steady_expiry(born, ttl) == born + ttl
    assert steady_expiry(born + ttl // 2 - 0.01, ttl) == born + ttl
    assert steady_expiry(born + ttl // 2, ttl) == born + ttl // 2 + ttl


@given(st.floats(0, 2**33), st.integers(30, 3600))
def test_at_least_half_of_a_links_life_is_left(now: float, ttl: int) -> None:
    assert ttl / 2 < steady_expiry(now, ttl) - int(now) <= ttl


@given(st.dictionaries(st.sampled_from(["expires", "user", "signature"]), st.text()))
def test_no_text_gets_through_or_raises_anything_else(changes: dict[str, str]) -> None:
    refused(DOCUMENT, signed(-60) | changes)


def test_the_secret_is_the_setting_or_kept_in_data_dir(tmp_path: Path) -> None:
    given_key = load_settings(data_dir=tmp_path, secret_key="0123456789abcdef")
    assert load_secret(given_key) == b"0123456789abcdef"
    assert list(tmp_path.iterdir()) == []
    kept = load_secret(load_settings(data_dir=tmp_path))
    assert len(kept) == 32
    assert load_secret(load_settings(data_dir=tmp_path)) == kept
    assert stat.S_IMODE((tmp_path / "secret-key").stat().st_mode) == 0o600
