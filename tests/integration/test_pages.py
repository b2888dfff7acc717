import time
from pathlib import Path

import pytest

from app.ingest.pages import count_pages
from tests.pdfs import assemble, make_pdf


@pytest.mark.parametrize("pages", [1, 3, 250])
async def test_pages_are_counted(tmp_path: Path, pages: int) -> None:
    path = tmp_path / "in.pdf"
    path.write_bytes(make_pdf(pages, seed="any"))
    assert await count_pages(path) == pages


async def test_a_broken_table_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "in.pdf"
    path.write_bytes(make_pdf(3).replace(b"startxref", b"startxxxx"))
    assert await count_pages(path) == 3


CATALOGUE = "<< /Type /Catalog /Pages 2 0 R >>"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"%PDF-1.7\n" + b"rubbish " * 1000,
        make_pdf(3)[:150],
        assemble([CATALOGUE, "<< /Type /Pages /Kids [2 0 R] /Count 100000000 >>"]),
        assemble([CATALOGUE, "<< /Type /Pages /Kids [] /Count 0 >>"]),
        assemble([CATALOGUE, "[" * 100_000]),
    ],
    ids=["empty", "rubbish", "cut", "its own parent", "no pages", "deep"],
)
async def test_what_cannot_be_counted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.pdf"
    path.write_bytes(content)
    started = time.monotonic()
    assert await count_pages(path) is None
    assert time.monotonic() - started < 15


async def test_a_locked_pdf_has_no_count(tmp_path: Path) -> None:
    locked = make_pdf(1).replace(
        b"/Root 1 0 R",
        b"/Root 1 0 R /ID [<00><00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4"
        b" /O <" + b"00" * 32 + b"> /U <" + b"11" * 32 + b"> >>",
    )
    path = tmp_path / "in.pdf"
    path.write_bytes(locked)
    assert await count_pages(path) is None


async def test_a_missing_file(tmp_path: Path) -> None:
    assert await count_pages(tmp_path / "missing.pdf") is None


async def test_a_wait_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "in.pdf"
    path.write_bytes(make_pdf(1))
    assert await count_pages(path, timeout_seconds=0.001) is None
