"""The whole service for a test: API on a real socket, worker, tenant; and clients that use it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx

from app.auth.issuer import DevelopmentIssuer
from app.embedded.panopto import PanoptoSimulator
from app.http.edge.server import running_server
from app.settings import Settings
from app.worker import open_worker
from tests.support.graphql_ws import GraphQLSocketClient, open_socket
from tests.support.wait import wait_until

LECTURE = """
fragment L on Lecture {
  id courseId panoptoSessionId panoptoUrl title durationSeconds status failure errorMessage
  progress { stage downloadedBytes totalBytes percent }
  revision attempt nextAttemptAt startedAt completedAt createdAt updatedAt
}
"""
REQUEST = (
    """
mutation ($input: RequestLectureDownloadInput!) {
  requestLectureDownload(input: $input) {
    __typename
    ... on RequestLectureDownloadPayload { created lecture { ...L } }
    ... on Error { message }
    ... on InvalidInputError { fieldErrors { path message code } }
  }
}
"""
    + LECTURE
)
GET_LECTURE = "query ($id: ID!) { lecture(id: $id) { ...L } }" + LECTURE
DOCUMENT = """
fragment D on Document {
  id courseId filename mimeType sizeBytes pageCount description status fileUrl signedFileUrl
  createdAt updatedAt
}
"""
UPLOAD = (
    """
mutation ($input: UploadDocumentInput!) {
  uploadDocument(input: $input) {
    __typename
    ... on UploadDocumentPayload { created document { ...D } }
    ... on Error { message }
    ... on InvalidInputError { fieldErrors { path message code } }
  }
}
"""
    + DOCUMENT
)
GET_DOCUMENT = "query ($id: ID!) { document(id: $id) { ...D } }" + DOCUMENT

_POLL_SECONDS = 0.03  # a request of 5 ms each time, in the process that does the work


@dataclass
class Client:
    """One signed-in user."""

    name: str
    token: str
    http: httpx.AsyncClient
    address: str
    _headers: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._headers = {"Authorization": f"Bearer {self.token}"}

    async def post(self, query: str, variables: Mapping[str, Any] | None = None) -> httpx.Response:
        body = {"query": query, "variables": variables}
        return await self.http.post("/graphql", json=body, headers=self._headers)

    async def answer(
        self, query: str, variables: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the whole GraphQL response."""
        response = await self.post(query, variables)
        assert response.status_code == 200, (response.status_code, response.text)
        answer: dict[str, Any] = response.json()
        return answer

    async def run(self, query: str, **variables: Any) -> Any:
        """Return the value of the operation's one root field; fail on any error."""
        answer = await self.answer(query, variables)
        assert "errors" not in answer, answer["errors"]
        (value,) = answer["data"].values()
        return value

    async def code(self, query: str, **variables: Any) -> str:
        """Return the code of the operation's one error."""
        (error,) = (await self.answer(query, variables))["errors"]
        code: str = error["extensions"]["code"]
        return code

    async def request(self, course_id: object, url: str, **more: Any) -> Any:
        return await self.run(
            REQUEST, input={"courseId": str(course_id), "panoptoUrl": url, **more}
        )

    async def lecture(self, lecture_id: str) -> Any:
        return await self.run(GET_LECTURE, id=lecture_id)

    async def document(self, document_id: str) -> Any:
        return await self.run(GET_DOCUMENT, id=document_id)

    async def until(self, lecture_id: str, *statuses: str, timeout_seconds: float = 60) -> Any:
        """Wait until the lecture has one of the statuses, and return it."""

        async def reached() -> Any:
            lecture = await self.lecture(lecture_id)
            return lecture if lecture and lecture["status"] in statuses else None

        description = f"lecture is {' or '.join(statuses)}"
        return await wait_until(
            reached, description, timeout_seconds=timeout_seconds, poll_seconds=_POLL_SECONDS
        )

    async def upload(
        self,
        course_id: object,
        content: bytes,
        filename: str = "notes.pdf",
        content_type: str = "application/pdf",
    ) -> Any:
        response = await self.post_upload(course_id, content, filename, content_type)
        assert response.status_code == 200, (response.status_code, response.text)
        answer = response.json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]["uploadDocument"]

    async def post_upload(
        self, course_id: object, content: bytes, filename: str, content_type: str
    ) -> httpx.Response:
        operations = {
            "query": UPLOAD,
            "variables": {"input": {"courseId": str(course_id), "file": None}},
        }
        return await self.http.post(
            "/graphql",
            data={
                "operations": json.dumps(operations),
                "map": json.dumps({"0": ["variables.input.file"]}),
            },
            files={"0": (filename, content, content_type)},
            headers=self._headers,
        )

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=self._headers | headers)

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[GraphQLSocketClient]:
        """Open a socket that is signed in."""
        async with open_socket(self.address) as socket:
            acknowledged = await socket.init(self.token)
            assert acknowledged["type"] == "connection_ack"
            yield socket


@dataclass
class Service:
    """A running service with its tenant."""

    settings: Settings
    address: str
    http: httpx.AsyncClient
    simulator: PanoptoSimulator
    course: UUID = field(default_factory=uuid4)

    def user(self, name: str) -> Client:
        return Client(name, self._issuer.issue(name), self.http, self.address)

    @cached_property
    def _issuer(self) -> DevelopmentIssuer:
        return DevelopmentIssuer.load(self.settings.data_path)

    @property
    def storage_root(self) -> Path:
        return self.settings.data_path / "storage"

    def stored(self) -> set[str]:
        """Return the keys of everything in storage, temporary and half-written files included."""
        root = self.storage_root
        files = (path for path in root.rglob("*") if path.is_file())
        return {str(path.relative_to(root)) for path in files}

    def lose(self, key: str) -> None:
        """Take an object away behind the service's back."""
        (self.storage_root / key).unlink()


@asynccontextmanager
async def running_api(settings: Settings) -> AsyncIterator[str]:
    """Serve the API alone."""
    from app.main import create_app

    async with running_server(create_app(settings), settings) as address:
        yield address


@asynccontextmanager
async def running_worker(settings: Settings) -> AsyncIterator[None]:
    """Run a worker alone."""
    async with open_worker(settings) as runner:
        running = asyncio.create_task(runner.run())
        try:
            yield
        finally:
            runner.stop()
            await running


@asynccontextmanager
async def running_service(
    settings: Settings, simulator: PanoptoSimulator, *, worker: bool = True
) -> AsyncIterator[Service]:
    """Serve the API and, unless told otherwise, run a worker."""
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(running_api(settings))
        if worker:
            await stack.enter_async_context(running_worker(settings))
        limits = httpx.Limits(max_connections=100)
        http = httpx.AsyncClient(
            base_url=address, timeout=60, limits=limits, trust_env=False, verify=False
        )
        await stack.enter_async_context(http)
        yield Service(settings, address, http, simulator)
