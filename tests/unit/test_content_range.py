import pytest

from app.ingest.net.content_range import ContentRange, content_range, size_at_416


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes 0-99/200", ContentRange(0, 100, 200)),
        ("Bytes  0-99/200 ", ContentRange(0, 100, 200)),
        ("bytes=0-99/200", ContentRange(0, 100, 200)),
        ("bytes: 0 - 99 / 200", ContentRange(0, 100, 200)),
        ("0-99/200", ContentRange(0, 100, 200)),
        ("bytes 199-199/*", ContentRange(199, 200, None)),
        ("bytes */200", None),
        ("bytes 5-4/200", None),
        ("bytes 0-200/200", None),
        ("bytes -5-4/200", None),
        ("bytes 0-99", None),
        ("items 0-99/200", None),
        ("bytes 0-99/200, bytes 100-199/200", None),
        ("bytes \u0660-\u0669/200", None),
        ("bytes 0-" + "9" * 5000 + "/*", None),
        ("", None),
    ],
)
def test_content_ranges(header: str, expected: ContentRange | None) -> None:
    assert content_range({"content-range": header}) == expected


def test_the_size_where_there_is_no_range() -> None:
    assert content_range({}) is None
    assert size_at_416({"content-range": "bytes */200"}) == 200
    assert size_at_416({"content-range": "bytes */*"}) is None
    assert size_at_416({}) is None
