"""Search through the API: what a student asks for, and where it leads."""

from typing import Any

from app.embedded.panopto import Recording
from tests.support.pdfs import make_text_pdf
from tests.support.service import Client, Service
from tests.support.wait import wait_until

SEARCH = """
query ($typed: String!, $mode: SearchMode, $lectureId: ID, $first: Int, $after: String) {
  search(query: $typed, mode: $mode, lectureId: $lectureId, first: $first, after: $after) {
    pageInfo { hasNextPage endCursor }
    edges { cursor }
    nodes {
      __typename score text highlights { start end }
      ... on LectureHit { lecture { id } startSeconds endSeconds openUrl }
      ... on DocumentHit { document { id filename hasText } page }
    }
  }
}
"""
CHUNKS = """
query ($id: ID!) {
  lecture(id: $id) {
    transcription { text chunks(first: 1) {
      totalCount nodes { index text startCharacter endCharacter startSeconds keywords }
    } }
  }
}
"""


async def found(user: Client, query: str, count: int, **more: Any) -> list[dict[str, Any]]:
    """Wait until the index has that many hits, and return them."""

    async def hits() -> Any:
        nodes = (await user.run(SEARCH, typed=query, **more))["nodes"]
        return nodes if len(nodes) == count else None

    return await wait_until(hits, f"{count} hits", poll_seconds=0.1)


async def test_a_lecture_and_a_document_are_found_together(
    service: Service, ada: Client, bob: Client, recording: Recording
) -> None:
    said = [(1, 4, "Leaves turn light into sugar."), (6, 4, "Courts decide about appeals.")]
    recording.captions = {
        1: [{"Time": at, "CaptionDuration": long, "Caption": text} for at, long, text in said]
    }
    url = service.simulator.viewer_url(recording)
    lecture = (await ada.request(service.course, url))["lecture"]["id"]
    await ada.until(lecture, "COMPLETED")
    pdf = make_text_pdf(["Contents", "Sugar is made in leaves by light."])
    document = (await ada.upload(service.course, pdf))["document"]["id"]

    hits = await found(ada, "sugar leaves", 2, mode="KEYWORD")
    by_kind = {hit["__typename"]: hit for hit in hits}
    spoken, written = by_kind["LectureHit"], by_kind["DocumentHit"]
    assert spoken["lecture"]["id"] == lecture
    assert abs(spoken["startSeconds"] - 1) < 0.1
    assert spoken["openUrl"].endswith("&start=1")
    marked = [spoken["text"][each["start"] : each["end"]] for each in spoken["highlights"]]
    assert marked == ["Leaves", "sugar"]
    assert written["document"] == {"id": document, "filename": "notes.pdf", "hasText": True}
    assert written["page"] == 2

    (judged,) = await found(ada, "when do judges rule?", 1, mode="SEMANTIC", lectureId=lecture)
    assert abs(judged["startSeconds"] - 6) < 0.1

    first = await ada.run(SEARCH, typed="sugar leaves", first=1)
    assert first["pageInfo"]["hasNextPage"]
    after = first["pageInfo"]["endCursor"]
    second = await ada.run(SEARCH, typed="sugar leaves", first=1, after=after)
    assert {first["nodes"][0]["__typename"], second["nodes"][0]["__typename"]} == set(by_kind)

    transcription = (await ada.run(CHUNKS, id=lecture))["transcription"]
    (chunk,) = transcription["chunks"]["nodes"]
    assert transcription["chunks"]["totalCount"] == 1
    place = slice(chunk["startCharacter"], chunk["endCharacter"])
    assert transcription["text"][place] == chunk["text"]
    assert chunk["keywords"]
    assert (await bob.run(SEARCH, typed="sugar leaves"))["nodes"] == []


async def test_what_cannot_be_searched_for_is_told(service: Service, ada: Client) -> None:
    for variables in ({"typed": ""}, {"typed": "x" * 501}, {"typed": "x", "after": "?"}):
        assert await ada.code(SEARCH, **variables) == "BAD_USER_INPUT"
    assert await ada.code(SEARCH, typed="x", lectureId="?") == "BAD_USER_INPUT"
    assert (await ada.run(SEARCH, typed="\x00 "))["nodes"] == []
