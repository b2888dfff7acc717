"""Small real PDFs, built by hand (ISO 32000-1, 7.5): valid cross-reference table included."""

from collections.abc import Sequence


def make_pdf(pages: int, seed: str = "") -> bytes:
    """Return a PDF with that many blank pages; another seed makes other bytes."""
    kids = " ".join(f"{number} 0 R" for number in range(3, 3 + pages))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>",
        *["<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] >>"] * pages,
    ]
    return assemble(objects, seed)


def assemble(objects: list[str], seed: str = "") -> bytes:
    """Return the objects, numbered from 1 (the catalogue), as a whole file."""
    content = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + f"% {seed}\n".encode()
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return (
        content
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}"
            f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(content)}\n%%EOF\n"
        ).encode()
    )


def make_text_pdf(pages: Sequence[str]) -> bytes:
    """Return a PDF whose pages say these texts (Latin-1), a line of the text a line."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, text in enumerate(pages):
        lines = [line.replace("\\", r"\\") for line in text.split("\n")]
        shown = " T* ".join("<" + line.encode("cp1252", "replace").hex() + "> Tj" for line in lines)
        content = f"BT /F1 8 Tf 10 TL 36 800 Td {shown} ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    return assemble(objects)
