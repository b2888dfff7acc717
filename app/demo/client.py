"""The few things that the demonstration asks of the API, as any client would: HTTP and SSE."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

REQUEST = """
mutation ($input: RequestLectureDownloadInput!) {
  requestLectureDownload(input: $input) {
    __typename
    ... on RequestLectureDownloadPayload { created lecture { id } }
    ... on Error { message }
  }
}
"""
TRANSCRIBE = """
mutation ($input: RequestTranscriptionInput!) {
  requestTranscription(input: $input) {
    __typename
    ... on RequestTranscriptionPayload { created transcription { id } }
    ... on Error { message }
  }
}
"""
LISTEN = """
subscription ($id: ID!) {
  transcriptionStatus(id: $id) { status errorMessage percent processingSeconds language text }
}
"""
WATCH = """
subscription ($id: ID!) {
  lectureStatus(id: $id) {
    id title status failure errorMessage durationSeconds
    progress { stage downloadedBytes totalBytes }
  }
}
"""
UPLOAD = """
mutation ($input: UploadDocumentInput!) {
  uploadDocument(input: $input) {
    __typename
    ... on UploadDocumentPayload { created document { id fileUrl } }
    ... on Error { message }
  }
}
"""
DOCUMENT = "query ($id: ID!) { document(id: $id) { pageCount } }"


class DemoFailed(Exception):
    """The service did not do what it should; the message says what."""


class DemoClient:
    """One signed-in user of the API at ``address``."""

    def __init__(self, address: str, token: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=address,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run(self, query: str, variables: dict[str, Any]) -> Any:
        """Return the value of the operation's one root field."""
        response = await self._http.post("/graphql", json={"query": query, "variables": variables})
        return _value(response.json())

    async def watch(self, subscription: str, item_id: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the item's states until it has ended."""
        body = {"query": subscription, "variables": {"id": item_id}}
        headers = {"Accept": "text/event-stream"}
        async with self._http.stream("POST", "/graphql", json=body, headers=headers) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: ") and len(line) > len("data: "):
                    yield _value(json.loads(line.removeprefix("data: ")))

    async def upload(self, course_id: str, filename: str, content: bytes) -> Any:
        """Upload a PDF by the GraphQL multipart request specification."""
        variables = {"input": {"courseId": course_id, "file": None}}
        fields = {
            "operations": json.dumps({"query": UPLOAD, "variables": variables}),
            "map": json.dumps({"0": ["variables.input.file"]}),
        }
        files = {"0": (filename, content, "application/pdf")}
        response = await self._http.post("/graphql", data=fields, files=files)
        return _value(response.json())

    async def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        response = await self._http.get(path)
        if response.status_code != httpx.codes.OK:
            raise DemoFailed(f"{path} answered {response.status_code}")
        return response.content


def _value(answer: dict[str, Any]) -> Any:
    if answer.get("errors"):
        raise DemoFailed(answer["errors"][0]["message"])
    (value,) = answer["data"].values()
    if value.get("__typename", "").endswith("Error"):
        raise DemoFailed(value["message"])
    return value
