"""Content-Disposition: no filename breaks out of it, and good ones arrive."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.files.disposition import content_disposition

# RFC 6266 with RFC 8187: one quoted string without escapes, and one extended value.
GRAMMAR = re.compile(
    r'inline; filename="[^"\\%/\x00-\x1f\x7f-\U0010ffff]+"'
    r"(; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-F]{2})+)?"
)


@pytest.mark.parametrize(
    ("filename", "value"),
    [
        ("notes.pdf", 'inline; filename="notes.pdf"'),
        ("week 1 (a).pdf", 'inline; filename="week 1 (a).pdf"'),
        ("über.pdf", "inline; filename=\"uber.pdf\"; filename*=UTF-8''%C3%BCber.pdf"),
        ("講義.pdf", "inline; filename=\"__.pdf\"; filename*=UTF-8''%E8%AC%9B%E7%BE%A9.pdf"),
        ('a".pdf', "inline; filename=\"a_.pdf\"; filename*=UTF-8''a%22.pdf"),
        ("100%.pdf", "inline; filename=\"100_.pdf\"; filename*=UTF-8''100%25.pdf"),
        ("a;b,c=d.pdf", 'inline; filename="a;b,c=d.pdf"'),
        ("../../etc/passwd", 'inline; filename="passwd"'),
        ("C:\\x\\y.pdf", 'inline; filename="y.pdf"'),
        ("a\r\nSet-Cookie: x=1.pdf", 'inline; filename="aSet-Cookie: x=1.pdf"'),
        ("cod\u202efdp.exe", 'inline; filename="codfdp.exe"'),
        (".htaccess", 'inline; filename="htaccess"'),
        ("\ud800.pdf", 'inline; filename="pdf"'),
        ("", 'inline; filename="document.pdf"'),
        ("\x00\x01", 'inline; filename="document.pdf"'),
        ("/", 'inline; filename="document.pdf"'),
        ("..", 'inline; filename="document.pdf"'),
        ("\u0301", "inline; filename=\"document.pdf\"; filename*=UTF-8''%CC%81"),
    ],
)
def test_known_names(filename: str, value: str) -> None:
    assert content_disposition(filename) == value


@settings(max_examples=500)
@given(st.text(st.characters() | st.sampled_from("\"\\;%/'\r\n\x00é"), max_size=300))
def test_no_filename_breaks_out(filename: str) -> None:
    value = content_disposition(filename)
    assert GRAMMAR.fullmatch(value)
    assert len(value.encode("ascii")) < 4096


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=100))
def test_the_extended_form_tells_the_whole_name(name: str) -> None:
    _, separator, extended = content_disposition(f"{name}.pdf").partition("filename*=UTF-8''")
    if separator:
        assert unquote(extended) == f"{name}.pdf"
    else:
        assert name.isascii()


def test_a_long_name_keeps_its_suffix() -> None:
    assert content_disposition("x" * 5000 + ".pdf").endswith('x.pdf"')


def test_an_attachment_differs_by_that_word_alone() -> None:
    inline = content_disposition("Übung 1.pdf")
    assert content_disposition("Übung 1.pdf", attachment=True) == inline.replace(
        "inline", "attachment", 1
    )
