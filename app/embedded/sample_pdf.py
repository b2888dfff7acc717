"""A small real PDF with words on its pages (ISO 32000-1, 7.5): header, objects, table, trailer."""


def make_sample_pdf(title: str, pages: int = 3) -> bytes:
    """Return a PDF with that many pages, each with the title and its number in ASCII."""
    first_page = 4
    words = title.encode("ascii", "replace").decode()
    words = words.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    kids = " ".join(f"{first_page + 2 * number} 0 R" for number in range(pages))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number in range(pages):
        contents = first_page + 2 * number + 1
        text = f"BT /F1 24 Tf 72 720 Td ({words}, page {number + 1}) Tj ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {contents} 0 R >>"
        )
        objects.append(f"<< /Length {len(text)} >>\nstream\n{text}\nendstream")
    content = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(content)}\n%%EOF\n"
    )
    return content + trailer.encode()
