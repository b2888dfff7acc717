"""PDFs as weapons: bombs, polyglots, filenames; each stays one user's stored bytes."""

import asyncio
import zlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest

from tests.support.pdfs import make_pdf
from tests.support.service import Client, Service
from tests.support.wait import wait_until


def pdf_of(*objects: bytes, tail: bytes = b"") -> bytes:
    body = b"%PDF-1.7\n"
    for number, content in enumerate(objects, start=1):
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    return body + b"trailer<</Root 1 0 R/Size %d>>\n%s%%%%EOF\n" % (len(objects) + 1, tail)


def flate_bomb() -> bytes:
    """An object stream that unfolds to 512 MiB."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512)) + packer.flush()
    stream = b"<</Type/ObjStm/N 1/First 4/Filter/FlateDecode/Length %d>>stream\n" % len(packed)
    catalog = b"<</Type/Catalog/Pages 3 0 R>>"
    return pdf_of(catalog, stream + packed + b"\nendstream", b"<</Type/Pages/Kids[]/Count 0>>")


CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
BOMBS = {
    "a page tree that contains itself": pdf_of(
        CATALOG, b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 9>>"
    ),
    "two billion pages": pdf_of(CATALOG, b"<</Type/Pages/Kids[]/Count 2147483647>>"),
    "fewer than no pages": pdf_of(CATALOG, b"<</Type/Pages/Kids[]/Count -5>>"),
    "deep arrays": pdf_of(CATALOG, b"[" * 200_000 + b"]" * 200_000),
    "a table that points at itself": pdf_of(CATALOG, tail=b"startxref\n9\n") + b"startxref\n0\n",
    "a tree of 20,000 levels": pdf_of(
        CATALOG, *(b"<</Type/Pages/Kids[%d 0 R]/Count 1>>" % n for n in range(3, 20_000))
    ),
    "nothing": b"%PDF-",
}


async def test_bombs_hurt_nobody(service: Service, ada: Client) -> None:
    bombs = BOMBS | {"a flate bomb": flate_bomb()}
    sent = await asyncio.gather(
        *(
            ada.upload(service.course, content, f"{n}.pdf")
            for n, content in enumerate(bombs.values())
        )
    )
    good = (await ada.upload(service.course, make_pdf(4)))["document"]

    async def counted() -> bool:
        return (await ada.document(good["id"]))["pageCount"] == 4

    await wait_until(counted, "a good one is counted all the same")
    for name, answer in zip(bombs, sent, strict=True):
        document = await ada.document(answer["document"]["id"])
        assert document["status"] == "UPLOADED", name
        assert document["pageCount"] is None or 0 <= document["pageCount"] < 2**31, name
        assert (await ada.get(document["fileUrl"])).content == bombs[name], name


POLYGLOTS = {
    "html": b"%PDF-1.7\n<html><script>alert(document.cookie)</script></html>",
    "javascript": b"%PDF-1.7\n*/=1;alert(1)/*",
    "zip": make_pdf(1) + b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18),
    "svg": b"%PDF-1.7\n<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
}
NOT_PDFS = {
    "html first": b"<html>%PDF-1.7",
    "byte order mark": b"\xef\xbb\xbf%PDF-1.7",
    "gif": b"GIF89a%PDF-1.7",
    "case": b"%pdf-1.7",
    "half": b"%PDF",
    "executable": b"\x7fELF%PDF-",
}


async def test_polyglots_are_pdfs_to_every_browser(service: Service, ada: Client) -> None:
    for name, content in POLYGLOTS.items():
        document = (await ada.upload(service.course, content))["document"]
        response = await ada.get(document["fileUrl"])
        assert response.content == content
        assert response.headers["content-type"] == "application/pdf", name
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"] == "default-src 'none'"
    for name, content in NOT_PDFS.items():
        answer = await ada.upload(service.course, content)
        assert answer["__typename"] == "InvalidInputError", name


@pytest.mark.parametrize(
    "name",
    [
        'a"; filename="b.exe',
        "a\r\nSet-Cookie: __session=x.pdf",
        "a\r\n\r\n<script>.pdf",
        "../../../etc/cron.d/x.pdf",
        "..\\..\\windows\\x.pdf",
        "/etc/passwd.pdf",
        "a\x00.exe.pdf",
        "\u202egpj.exe.pdf",
        "a%0d%0aX-Evil: 1.pdf",
        "a;b=c,d.pdf",
        "\ud7ff\U0001f4a9\u0301.pdf",
        "a\u2028b.pdf",
        "CON.pdf",
        "=cmd|'/c calc'!A1.pdf",
    ],
)
async def test_no_filename_breaks_out(name: str) -> None:
    from app.http.files.disposition import content_disposition

    value = content_disposition(name)
    assert value.isascii()
    assert value.isprintable()
    assert value.count('"') == 2
    assert value.startswith('inline; filename="')
    plain = value.split('"')[1]
    assert not {"/", "\\", "%"} & set(plain)


async def test_headers_stay_whole_whatever_a_file_is_called(service: Service, ada: Client) -> None:
    for raw in (
        b'a\\"; x="b.pdf',
        b"a\tb.pdf",
        b"%0d%0aSet-Cookie: a=b.pdf",
        b"../../x.pdf",
        "\u202egpj\u2028.pdf".encode(),
        b"\xff\xfe.pdf",
    ):
        response = await _upload_raw(service, ada, raw)
        assert response.status_code in {200, 400}, raw
        value = response.json().get("data", {}).get("uploadDocument", {})
        if "document" not in value:
            continue
        answer = await ada.get(value["document"]["fileUrl"])
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert "/" not in value["document"]["filename"]
        assert answer.headers.get_list("content-disposition")[0].count('"') == 2
    assert all(Path(key).parent.name == "documents" for key in service.stored())


async def _upload_raw(service: Service, user: Client, filename: bytes) -> Any:
    query = (
        "mutation ($i: UploadDocumentInput!) { uploadDocument(input: $i) {"
        " ... on UploadDocumentPayload { document { filename fileUrl } } } }"
    )
    operations = (
        f'{{"query": "{query}",'
        f' "variables": {{"i": {{"courseId": "{service.course}", "file": null}}}}}}'
    )
    form = (
        b'--b\r\nContent-Disposition: form-data; name="operations"\r\n\r\n'
        + operations.encode()
        + b'\r\n--b\r\nContent-Disposition: form-data; name="map"\r\n\r\n{"0":["variables.i.file"]}'
        b'\r\n--b\r\nContent-Disposition: form-data; name="0"; filename="'
        + filename
        + b'"\r\nContent-Type: application/pdf\r\n\r\n'
        + make_pdf(1)
        + str(uuid4()).encode()
        + b"\r\n--b--\r\n"
    )
    headers = {
        "Authorization": f"Bearer {user.token}",
        "Content-Type": "multipart/form-data; boundary=b",
    }
    return await service.http.post("/graphql", content=form, headers=headers)


async def test_forged_tokens_and_links_open_nothing(service: Service, ada: Client) -> None:
    document = (await ada.upload(service.course, make_pdf(1)))["document"]
    claims = jwt.decode(ada.token, options={"verify_signature": False})
    head, body, signature = ada.token.split(".")
    kid = jwt.get_unverified_header(ada.token)["kid"]
    forged = [
        jwt.encode(claims, None, "none"),
        jwt.encode(claims, "x" * 32, "HS256", headers={"kid": "../../dev/null"}),
        jwt.encode(claims, "x" * 32, "HS256", headers={"kid": kid}),
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{head}.{body}.{signature}.{signature}",
        "null",
    ]
    for token in forged:
        for headers in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"__session={token}"}):
            response = await service.http.get(document["fileUrl"], headers=headers)
            assert response.status_code == 401, token
            query = {"query": "{ viewer { id } }"}
            answer = await service.http.post("/graphql", json=query, headers=headers)
            assert answer.status_code == 401, token
            assert answer.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    link = document["signedFileUrl"]
    for change in (
        link.replace("user=", "user=0"),
        link.replace("expires=", "expires=9"),
        link[:-1],
        link + "&signature=",
        link.partition("&signature")[0] + "&signature=",
        link.partition("?")[0] + "?signature",
    ):
        assert (await service.http.get(change)).status_code == 401, change
