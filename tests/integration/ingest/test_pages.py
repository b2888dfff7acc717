import struct
import time
import zlib
from pathlib import Path

import pytest

from app.ingest.pdf import count_pages
from tests.support.pdfs import assemble, make_pdf


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
PAGE = "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] >>"


def compressed(count: int, pages: int) -> bytes:
    """Return a PDF whose page tree, of that ``/Count``, lies in a compressed stream (7.5.7)."""
    kids = " ".join(f"{number} 0 R" for number in range(3, 3 + pages))
    tree = f"<< /Type /Pages /Kids [{kids}] /Count {count} >>"
    bodies = [CATALOGUE, tree, *[PAGE] * pages]
    starts = [sum(len(body) + 1 for body in bodies[:number]) for number in range(len(bodies))]
    head = " ".join(f"{number} {start}" for number, start in enumerate(starts, 1)) + " "
    packed = zlib.compress((head + " ".join(bodies)).encode())
    number, table = len(bodies) + 1, len(bodies) + 2
    content = b"%PDF-1.7\n"
    rows = struct.pack(">BHB", 0, 0, 0)
    rows += b"".join(struct.pack(">BHB", 2, number, index) for index in range(len(bodies)))
    rows += struct.pack(">BHB", 1, len(content), 0)
    content += f"{number} 0 obj\n<< /Type /ObjStm /N {len(bodies)} /First {len(head)}".encode()
    content += f" /Filter /FlateDecode /Length {len(packed)} >>\nstream\n".encode()
    content += packed + b"\nendstream\nendobj\n"
    start = len(content)
    rows += struct.pack(">BHB", 1, start, 0)
    content += f"{table} 0 obj\n<< /Type /XRef /Size {table + 1} /Root 1 0 R /W [1 2 1]".encode()
    content += f" /Length {len(rows)} >>\nstream\n".encode() + rows + b"\nendstream\nendobj\n"
    return content + f"startxref\n{start}\n%%EOF\n".encode()


@pytest.mark.parametrize(
    ("content", "pages"),
    [
        *(
            (assemble([CATALOGUE, f"<< /Type /Pages /Kids [3 0 R] /Count {count} >>", PAGE]), 1)
            for count in (-1, 0, 2, 3_000, 500_000)
        ),
        (assemble([CATALOGUE, "<< /Type /Pages /Kids [3 0 R 4 0 R] /Count 1 >>", PAGE, PAGE]), 2),
        (assemble([CATALOGUE, "<< /Type /Pages /Kids [3 0 R 9 0 R] /Count 2 >>", PAGE]), 1),
        (compressed(3, pages=3), 3),
        (compressed(3_000, pages=3), 3),
        *((compressed(count, pages=5), 5) for count in (-1, 0, 2, 1_000_000, 2**31 - 1)),
    ],
)
async def test_pages_are_counted_whatever_the_tree_says(
    tmp_path: Path, content: bytes, pages: int
) -> None:
    path = tmp_path / "in.pdf"
    path.write_bytes(content)
    assert await count_pages(path) == pages


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
