"""A PDF's way through the whole service: bytes in, bytes out, kept once."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from tests.support.pdfs import make_pdf
from tests.support.service import Client, Service
from tests.support.wait import wait_until

UNKNOWN = str(uuid4())
UNLINK = """mutation ($id: ID!) { unlinkDocument(id: $id) {
  __typename ... on UnlinkDocumentPayload { documentId deleted }
  ... on NotFoundError { missingId } } }"""
DELETE = """mutation ($id: ID!) { deleteDocument(id: $id) {
  __typename ... on DeleteDocumentPayload { documentId } ... on NotFoundError { missingId } } }"""
LIST = "{ documents { totalCount nodes { id filename course { code } } } }"


async def test_a_pdf_comes_back_byte_for_byte(service: Service, ada: Client) -> None:
    pdf = make_pdf(3)
    answer = await ada.upload(service.course, pdf, "Vorlesung 1 · Zelle.pdf")
    assert answer["created"] is True
    document = answer["document"]
    assert document["filename"] == "Vorlesung 1 · Zelle.pdf"
    assert document["mimeType"] == "application/pdf"
    assert document["sizeBytes"] == len(pdf)
    assert document["status"] == "UPLOADED"
    assert document["fileUrl"] == f"/api/documents/{document['id']}/file"

    response = await ada.get(document["fileUrl"])
    assert (response.status_code, response.content) == (200, pdf)
    assert response.headers["content-type"] == "application/pdf"
    assert hashlib.sha256(pdf).hexdigest() not in str(response.headers)
    part = await ada.get(document["fileUrl"], Range="bytes=0-4")
    assert (part.status_code, part.content) == (206, b"%PDF-")
    unchanged = await ada.get(document["fileUrl"], **{"If-None-Match": response.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")

    async def counted() -> bool:
        return (await ada.document(document["id"]))["pageCount"] == 3

    await wait_until(counted, "the pages are counted")
    assert service.stored() == {f"documents/{document['id']}.pdf"}


async def test_50_uploads_of_the_same_bytes_are_one_document(service: Service) -> None:
    pdf = make_pdf(1)
    users = [service.user(f"student-{number}") for number in range(5)]
    answers = await asyncio.gather(
        *(users[i % 5].upload(service.course, pdf, f"{i}.pdf") for i in range(50))
    )
    ids = {answer["document"]["id"] for answer in answers}
    assert len(ids) == 1
    assert sum(answer["created"] for answer in answers) == 1
    (document_id,) = ids
    assert service.stored() == {f"documents/{document_id}.pdf"}
    for number, user in enumerate(users):
        own = await user.document(document_id)
        assert int(own["filename"].removesuffix(".pdf")) % 5 == number
    other = await users[0].upload(uuid4(), pdf)
    assert other["created"] is True
    assert other["document"]["id"] != document_id


async def test_each_user_has_the_name_of_their_last_upload(
    service: Service, ada: Client, bob: Client
) -> None:
    pdf = make_pdf(1)
    document_id = (await ada.upload(service.course, pdf, "a.pdf"))["document"]["id"]
    await bob.upload(service.course, pdf, "b.pdf")
    await ada.upload(service.course, pdf, "a2.pdf")
    assert (await ada.document(document_id))["filename"] == "a2.pdf"
    response = await bob.get(f"/api/documents/{document_id}/file")
    assert 'filename="b.pdf"' in response.headers["content-disposition"]


async def test_what_is_no_pdf_is_refused_and_nothing_is_stored(
    service: Service, ada: Client
) -> None:
    pdf = make_pdf(1)
    for content, name, declared, code in (
        (pdf, "notes.txt", "application/pdf", "UNSUPPORTED"),
        (pdf, "notes.pdf", "text/plain", "UNSUPPORTED"),
        (b"hello", "notes.pdf", "application/pdf", "UNSUPPORTED"),
        (b"\n" + pdf, "notes.pdf", "application/pdf", "UNSUPPORTED"),
        (b"", "notes.pdf", "application/pdf", "REQUIRED"),
        (pdf, "x" * 300 + ".pdf", "application/pdf", "TOO_LONG"),
    ):
        answer = await ada.upload(service.course, content, name, declared)
        assert answer["__typename"] == "InvalidInputError", name
        (problem,) = answer["fieldErrors"]
        assert (problem["path"], problem["code"]) == (["input", "file"], code)
    assert (await ada.run(LIST))["totalCount"] == 0
    assert service.stored() == set()


async def test_a_pdf_may_be_declared_as_nothing_in_particular(
    service: Service, ada: Client
) -> None:
    for declared in ("", "application/octet-stream", "application/x-pdf", "Application/PDF; x=y"):
        answer = await ada.upload(service.course, make_pdf(1, declared), "notes.PDF", declared)
        assert answer["created"] is True, declared
        assert answer["document"]["mimeType"] == "application/pdf"
        refused = await ada.upload(service.course, b"<html>", "notes.pdf", declared)
        assert refused["__typename"] == "InvalidInputError"


async def test_a_broken_pdf_stays_available_without_a_page_count(
    service: Service, ada: Client
) -> None:
    broken = b"%PDF-1.7\nnothing that can be read\n%%EOF"
    document = (await ada.upload(service.course, broken))["document"]
    whole = (await ada.upload(service.course, make_pdf(2)))["document"]

    async def counted() -> bool:
        return (await ada.document(whole["id"]))["pageCount"] == 2

    await wait_until(counted, "the whole one is counted")
    assert (await ada.document(document["id"]))["pageCount"] is None
    assert (await ada.get(document["fileUrl"])).content == broken


async def test_a_stranger_gets_nothing(
    service: Service, ada: Client, bob: Client, admin: Client
) -> None:
    document = (await ada.upload(service.course, make_pdf(1)))["document"]
    for some_id in (document["id"], UNKNOWN):
        assert await bob.document(some_id) is None
        assert (await bob.get(f"/api/documents/{some_id}/file")).status_code == 404
        assert (await bob.run(UNLINK, id=some_id))["__typename"] == "NotFoundError"
        assert await bob.code(DELETE, id=some_id) == "FORBIDDEN"
    assert (await bob.get("/api/documents/nonsense/file")).status_code == 404
    assert (await admin.get(document["fileUrl"])).status_code == 200
    assert (await service.http.get(document["fileUrl"])).status_code == 401


async def test_a_signed_link_reads_the_file_until_its_user_loses_it(
    service: Service, ada: Client, admin: Client
) -> None:
    document = (await ada.upload(service.course, make_pdf(1)))["document"]
    link = document["signedFileUrl"]
    assert (await service.http.get(link)).status_code == 200
    assert (await service.http.get(link.replace("expires=", "expires=1"))).status_code == 401
    other = link.replace(document["id"], UNKNOWN)
    assert (await service.http.get(other)).status_code in {401, 404}
    query = "query ($id: ID!, $ttl: Int) { document(id: $id) { signedFileUrl(ttlSeconds: $ttl) } }"
    for ttl in (29, 3601):
        assert await ada.code(query, id=document["id"], ttl=ttl) == "BAD_USER_INPUT"
    from_admin = (await admin.run(query, id=document["id"], ttl=30))["signedFileUrl"]
    assert (await service.http.get(from_admin)).status_code == 200
    await ada.run(UNLINK, id=document["id"])
    assert (await service.http.get(link)).status_code == 404


async def test_a_signed_link_stays_the_same_and_says_when_it_ends(
    service: Service, ada: Client
) -> None:
    pdf = make_pdf(1)
    document_id = (await ada.upload(service.course, pdf, "notes.pdf"))["document"]["id"]
    query = """query ($id: ID!, $ttl: Int, $download: Boolean) { document(id: $id) {
      signedFile(ttlSeconds: $ttl, download: $download) { url expiresAt }
      signedFileUrl(ttlSeconds: $ttl) } }"""
    hour = {"id": document_id, "ttl": 3600}

    async def same() -> Any:  # unless its half hour ended in between
        first, second = await ada.run(query, **hour), await ada.run(query, **hour)
        return first if first == second else None

    answer = await wait_until(same, "two answers of one half hour")
    assert answer["signedFileUrl"] == answer["signedFile"]["url"]
    left = datetime.fromisoformat(answer["signedFile"]["expiresAt"]) - datetime.now(UTC)
    assert timedelta(minutes=29) < left <= timedelta(hours=1)
    read = await service.http.get(answer["signedFile"]["url"])
    assert (read.content, read.headers["content-disposition"]) == (
        pdf,
        'inline; filename="notes.pdf"',
    )
    saved = (await ada.run(query, **hour, download=True))["signedFile"]["url"]
    read = await service.http.get(saved)
    assert (read.content, read.headers["content-disposition"]) == (
        pdf,
        'attachment; filename="notes.pdf"',
    )


async def test_the_last_one_out_removes_the_file(
    service: Service, ada: Client, bob: Client, admin: Client
) -> None:
    pdf = make_pdf(1)
    document_id = (await ada.upload(service.course, pdf))["document"]["id"]
    await bob.upload(service.course, pdf)
    assert (await ada.run(UNLINK, id=document_id))["deleted"] is False
    assert (await bob.run(UNLINK, id=document_id))["deleted"] is True
    assert service.stored() == set()
    again = await ada.upload(service.course, pdf)
    assert again["created"] is True
    assert (await admin.run(DELETE, id=again["document"]["id"]))["documentId"]
    assert await ada.document(again["document"]["id"]) is None
    assert service.stored() == set()


async def test_an_upload_brings_back_an_object_that_was_lost(
    service: Service, ada: Client, bob: Client
) -> None:
    pdf = make_pdf(2)
    document = (await ada.upload(service.course, pdf))["document"]
    key = f"documents/{document['id']}.pdf"
    service.lose(key)
    assert (await ada.get(document["fileUrl"])).status_code == 404
    again = await bob.upload(service.course, pdf)
    assert (again["created"], again["document"]["id"]) == (False, document["id"])
    for user in (ada, bob):
        assert (await user.get(document["fileUrl"])).content == pdf
    assert service.stored() == {key}


async def test_links_and_unlinks_at_once_never_end_at_a_deleted_row(
    service: Service, ada: Client, bob: Client
) -> None:
    pdf = make_pdf(1)

    async def upload_and_unlink(user: Client) -> None:
        for _ in range(5):
            document_id = (await user.upload(service.course, pdf))["document"]["id"]
            assert (await user.get(f"/api/documents/{document_id}/file")).content == pdf
            assert (await user.run(UNLINK, id=document_id))["__typename"] == "UnlinkDocumentPayload"

    await asyncio.gather(upload_and_unlink(ada), upload_and_unlink(bob))
    assert service.stored() == set()
