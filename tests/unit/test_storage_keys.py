import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidKey
from app.storage.protocol import checked_key, checked_prefix, checked_range


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "audio/0b9d.m4a",
        "audio/0b9d_source.3.mp4",
        "-a/_b/C.9",
        "a" * 255,
        "/".join(["a" * 127] * 4),
        "a..b",
        "a.",
    ],
)
def test_good_keys(key: str) -> None:
    assert checked_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "..",
        ".",
        "../x",
        "a/..",
        "a/../b",
        "a/./b",
        ".hidden",
        "a/.partial",
        "a//b",
        "a/",
        "a\\b",
        "a b",
        "a\0",
        "a\n",
        "ä",
        "a%2e",
        "a:b",
        "a" * 256,
        "/".join(["a" * 128] * 4),
    ],
)
def test_bad_keys(key: str) -> None:
    with pytest.raises(InvalidKey) as raised:
        checked_key(key)
    assert key in {"", ".", "/", "a/"} or key not in raised.value.message


@given(st.text(alphabet="./\\a\0 -_", max_size=12))
def test_no_key_leaves_its_folder(key: str) -> None:
    try:
        checked_key(key)
    except InvalidKey:
        return
    parts = key.split("/")
    assert all(part and part[0] != "." for part in parts)
    assert "\\" not in key
    assert "\0" not in key


@pytest.mark.parametrize("prefix", ["", "a", "audio/", "audio/1_source."])
def test_good_prefixes(prefix: str) -> None:
    assert checked_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["/", "../", ".", "a//", "a/.", "a\0", "x" * 255])
def test_bad_prefixes(prefix: str) -> None:
    with pytest.raises(InvalidKey):
        checked_prefix(prefix)


def test_ranges() -> None:
    checked_range(0, None)
    checked_range(5, 0)
    for start, end in ((-1, None), (0, -1)):
        with pytest.raises(ValueError, match="range"):
            checked_range(start, end)
