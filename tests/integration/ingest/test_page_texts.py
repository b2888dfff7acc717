"""The text of a PDF's pages, read in a child process."""

from pathlib import Path

import pytest

from app.ingest.pdf import page_texts
from tests.support.pdfs import assemble, make_pdf, make_text_pdf


async def texts_of(directory: Path, content: bytes) -> list[str] | None:
    path, output = directory / "a.pdf", directory / "text"
    path.write_bytes(content)
    texts = await page_texts(path, output)
    assert not output.exists()
    return texts


async def test_each_page_has_its_text(tmp_path: Path) -> None:
    pages = ["First page\nwith two lines", "", "Élan vital: 50 % © café"]
    assert await texts_of(tmp_path, make_text_pdf(pages)) == pages


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("infor-\nmation", "information"),
        ("well-known", "well-known"),
        ("1990-\n1995", "1990-\n1995"),
        ("trailing  \n  space", "trailing\nspace"),
    ],
)
async def test_words_are_as_one_would_write_them(tmp_path: Path, written: str, read: str) -> None:
    assert await texts_of(tmp_path, make_text_pdf([written])) == [read]


async def test_pages_without_text_are_told(tmp_path: Path) -> None:
    assert await texts_of(tmp_path, make_pdf(3)) == ["", "", ""]


async def test_two_thousand_pages_are_read(tmp_path: Path) -> None:
    texts = await texts_of(tmp_path, make_text_pdf([f"page {n}" for n in range(2000)]))
    assert texts is not None
    assert (len(texts), texts[1999]) == (2000, "page 1999")


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7", b"no PDF at all", assemble(["<< >>"])])
async def test_what_is_no_pdf_has_no_pages(tmp_path: Path, content: bytes) -> None:
    assert await texts_of(tmp_path, content) is None
