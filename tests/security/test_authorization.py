"""Who gets what: anonymous, stranger, linked, admin, for every operation and the file.

The operations come from the schema itself: a field that is added without a rule here fails.
"""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from graphql import GraphQLObjectType, get_named_type, is_required_argument

from app.embedded.panopto import PanoptoSimulator
from app.schema.root import schema
from app.settings import Settings
from tests.support.graphql_ws import open_socket
from tests.support.pdfs import make_pdf
from tests.support.service import Client, Service, running_service

SCHEMA = schema._schema
ROLES = ("stranger", "linked", "admin")
OWN = ("empty", "own", "empty")  # lists of one's own, whoever asks
HIDDEN = ("null", "value", "value")
UNKNOWN = ("NotFoundError", "value", "value")
MINE = ("null", "value", "null")  # not even an admin reads what is another's own
NOBODY_ELSE = ("NotFoundError", "value", "NotFoundError")
FORBIDDEN = ("FORBIDDEN", "FORBIDDEN", "value")

# What each role gets, in the order of ROLES; anonymous requests get 401 everywhere.
RULES: dict[str, tuple[str, str, str]] = {
    "Query.viewer": ("value", "value", "value"),
    "Query.limits": ("value", "value", "value"),
    "Query.node": HIDDEN,
    "Query.nodes": HIDDEN,
    "Query.lecture": HIDDEN,
    "Query.lectures": OWN,
    "Query.document": HIDDEN,
    "Query.documents": OWN,
    "Query.course": ("null", "null", "null"),  # the id names no course
    "Query.courses": ("empty", "empty", "empty"),
    "Query.collection": MINE,
    "Query.collections": OWN,
    "Query.topic": MINE,
    "Query.topics": OWN,
    "Query.previewLink": ("value", "value", "value"),
    "Query.transcription": HIDDEN,
    "Query.transcriptions": OWN,
    "Query.transcriptionModels": ("value", "value", "value"),
    "Query.search": OWN,
    "Query.allLectures": ("FORBIDDEN", "FORBIDDEN", "own"),
    "Mutation.requestLectureDownload": ("value", "value", "value"),
    "Mutation.retryLectureDownload": ("NotFoundError", "ConflictError", "ConflictError"),
    "Mutation.cancelLectureDownload": UNKNOWN,
    "Mutation.requestLectureDownloads": ("value", "value", "value"),
    "Mutation.uploadLecture": ("value", "value", "value"),
    "Mutation.uploadDocument": ("value", "value", "value"),
    "Mutation.unlinkLecture": ("NotFoundError", "value", "NotFoundError"),
    "Mutation.unlinkDocument": ("NotFoundError", "value", "NotFoundError"),
    "Mutation.unlinkLectures": ("NotFoundError", "value", "NotFoundError"),
    "Mutation.unlinkDocuments": ("NotFoundError", "value", "NotFoundError"),
    "Mutation.requestTranscription": UNKNOWN,  # it has this one already
    "Mutation.cancelTranscription": UNKNOWN,
    "Mutation.deleteTranscription": UNKNOWN,
    "Mutation.createTopic": ("value", "value", "value"),
    "Mutation.updateTopic": NOBODY_ELSE,
    "Mutation.deleteTopic": NOBODY_ELSE,
    "Mutation.assignTopics": NOBODY_ELSE,
    "Mutation.unassignTopic": NOBODY_ELSE,
    "Mutation.suggestTopics": ("NotFoundError", "ConflictError", "ConflictError"),  # no index
    "Mutation.reviewTopic": NOBODY_ELSE,
    "Mutation.createCollection": ("value", "value", "value"),
    "Mutation.updateCollection": NOBODY_ELSE,
    "Mutation.deleteCollection": NOBODY_ELSE,
    "Mutation.addToCollection": NOBODY_ELSE,
    "Mutation.removeFromCollection": NOBODY_ELSE,
    "Mutation.deleteLecture": FORBIDDEN,
    "Mutation.deleteDocument": FORBIDDEN,
    "Subscription.lectureStatus": ("NOT_FOUND", "value", "value"),
    "Subscription.transcriptionStatus": ("NOT_FOUND", "value", "value"),
    "Subscription.myTranscriptions": ("value", "value", "value"),
    "Subscription.myLectures": ("value", "value", "value"),
    "Subscription.myDocuments": ("value", "value", "value"),
}
# Fields below the roots are as visible as the object that has them; this is what there is.
FIELDS = {
    "Course": "id code title instructor isOfficial",
    "Lecture": "id courseId course panoptoSessionId panoptoUrl title durationSeconds status failure"
    " errorMessage progress revision attempt nextAttemptAt startedAt completedAt createdAt"
    " updatedAt viewerCanRetry viewerCanCancel transcription transcriptions source platform"
    " summary summarySource filename audioBytes audioUrl signedAudio openUrl",
    "Transcription": "id lecture status failure errorMessage source model language isLanguageForced"
    " averageConfidence processingSeconds warnings percent isCurrent revision text segments chunks"
    " export topics createdAt updatedAt completedAt",
    "LinkPreview": "platform title durationSeconds isLive lecture",
    "LinkRefused": "failure message",
    "TranscriptSegment": "index startSeconds endSeconds text confidence",
    "TranscriptChunk": "index text startSeconds endSeconds startCharacter endCharacter confidence"
    " keywords topicSummary",
    "TranscriptionModel": "name isDefault languages",
    "Document": "id courseId course filename mimeType sizeBytes pageCount hasText description"
    " descriptionSource status fileUrl signedFile signedFileUrl revision createdAt updatedAt",
    "LectureHit": "score text highlights lecture startSeconds endSeconds openUrl",
    "DocumentHit": "score text highlights document page",
    "TextRange": "start end",
    "Topic": "id name description lectureCount createdAt updatedAt",
    "TopicAssignment": "topic transcription assignedBy confidence reasoning review createdAt",
    "Collection": "id name description items createdAt updatedAt",
    "CollectionItem": "position subject addedAt",
    "Viewer": "id isAdmin storedBytes storedBytesLimit lectureCounts",
    "LectureStatusCount": "status count",
    "Limits": "maxUploadBytes operationsPerSocket linksPerRequest maxPageSize",
    "SignedLink": "url expiresAt",
    "DownloadProgress": "stage downloadedBytes totalBytes percent",
}
WRITTEN = "The quick brown fox"
CREATE_COLLECTION = """
mutation { createCollection(input: { name: "Exam" }) {
  ... on CollectionPayload { collection { id } }
} }
"""
CREATE_TOPIC = """
mutation { createTopic(input: { name: "Waves" }) { ... on TopicPayload { topic { id } } } }
"""
ASSIGN = """
mutation ($transcription: ID!, $topic: ID!) {
  assignTopics(transcriptionId: $transcription, topicIds: [$topic]) {
    ... on TopicAssignmentsPayload { transcription { topics { topic { id } } } }
  }
}
"""
FILL = """
mutation ($collection: ID!, $lecture: ID!) {
  addToCollection(input: { collectionId: $collection, subjectId: $lecture }) {
    ... on CollectionPayload { collection { id } }
  }
}
"""
ROOTS = {"Query": SCHEMA.query_type, "Mutation": SCHEMA.mutation_type}
SUBSCRIPTIONS = SCHEMA.subscription_type


def operations(*roots: str) -> list[str]:
    return [name for name in RULES if name.partition(".")[0] in roots]


def test_every_field_of_the_schema_has_a_rule() -> None:
    roots = [*ROOTS.values(), SUBSCRIPTIONS]
    found = {f"{root.name}.{field}" for root in roots if root for field in root.fields}
    assert found == set(RULES)
    for name, fields in FIELDS.items():
        kind = SCHEMA.type_map[name]
        assert isinstance(kind, GraphQLObjectType)
        assert set(kind.fields) == set(fields.split()), name
    # Everything else is a page, an event, a payload or an error around those.
    around = ("Connection", "Edge", "Event", "Payload", "Error", "PageInfo")
    others = {
        name
        for name, kind in SCHEMA.type_map.items()
        if isinstance(kind, GraphQLObjectType) and not name.startswith("__")
    } - {"Query", "Mutation", "Subscription", *FIELDS}
    assert {name for name in others if not name.endswith(around)} == set()


def document_of(operation: str) -> tuple[str, set[str]]:
    """Return a document that runs the operation, and the variables that it takes."""
    root, _, name = operation.partition(".")
    kind = SCHEMA.type_map[root]
    assert isinstance(kind, GraphQLObjectType)
    field = kind.fields[name]
    taken = {key: a.type for key, a in field.args.items() if is_required_argument(a)}
    head = ", ".join(f"${key}: {of}" for key, of in taken.items())
    given = ", ".join(f"{key}: ${key}" for key in taken)
    inner = "__typename"
    if get_named_type(field.type).name.startswith(("UnlinkLectures", "UnlinkDocuments")):
        inner = f"... on {name[0].upper()}{name[1:]}Payload {{ results {{ __typename }} }}"
    if get_named_type(field.type).name.endswith("Connection"):
        inner = "nodes { __typename }" if operation == "Query.search" else "nodes { id }"
    call = f"{name}{f'({given})' if given else ''} {{ {inner} }}"
    return f"{root.lower()} {f'({head})' if head else ''} {{ {call} }}", set(taken)


class Stage:
    """A lecture, its transcription and a document of one user, and the ways to ask for them."""

    def __init__(
        self,
        service: Service,
        lecture: str,
        document: str,
        transcription: str,
        collection: str,
        topic: str,
    ) -> None:
        self.service, self.lecture, self.document = service, lecture, document
        self.transcription, self.collection = transcription, collection
        self.topic = topic

    def variables(self, operation: str, taken: set[str]) -> dict[str, Any]:
        item = self.document if "ocument" in operation else self.lecture
        if "ranscription" in operation:
            item = self.transcription
        if "ollection" in operation:
            item = self.collection
        if "opic" in operation:
            item = self.topic
        if taken == {"id"}:
            return {"id": item}
        if operation == "Mutation.createTopic":
            return {"input": {"name": "Mine"}}
        if operation == "Mutation.updateTopic":
            return {"input": {"id": item, "name": "Mine"}}
        of_topic = {"topicIds": [item], "topicId": item, "accept": False}
        if "transcriptionId" in taken:
            return {"transcriptionId": self.transcription} | {
                key: value for key, value in of_topic.items() if key in taken
            }
        if operation == "Mutation.createCollection":
            return {"input": {"name": "Mine"}}
        if operation == "Mutation.updateCollection":
            return {"input": {"id": item, "name": "Mine"}}
        if operation == "Mutation.addToCollection":
            return {"input": {"collectionId": item, "subjectId": self.document}}
        if operation == "Mutation.removeFromCollection":
            return {"collectionId": item, "subjectId": self.lecture}
        if taken == {"url"}:
            return {"url": self.link()}
        if taken == {"ids"}:
            return {"ids": [item]}
        if taken == {"query"}:
            return {"query": WRITTEN}
        if not taken:
            return {}
        if operation == "Mutation.requestLectureDownloads":
            links = [{"panoptoUrl": self.link()}]
            return {"input": {"courseId": str(self.service.course), "links": links}}
        if operation == "Mutation.requestTranscription":
            return {"input": {"lectureId": self.lecture}}
        more = {"file": None} if "upload" in operation else {"panoptoUrl": self.link()}
        return {"input": {"courseId": str(self.service.course), **more}}

    def link(self) -> str:
        host = self.service.simulator.host_port
        return f"http://{host}/Panopto/Pages/Viewer.aspx?id={uuid4()}"

    async def outcome(self, operation: str, user: Client) -> str:
        query, taken = document_of(operation)
        variables = self.variables(operation, taken)
        if "upload" in operation:
            is_pdf = operation == "Mutation.uploadDocument"
            named = "pdf" if is_pdf else "wav"
            content = make_pdf(2) if is_pdf else b"RIFF\x24\x00\x00\x00WAVEfmt " + uuid4().bytes
            sent = {"query": query, "variables": variables}
            response = await user.http.post(
                "/graphql",
                data={"operations": json.dumps(sent), "map": '{"0":["variables.input.file"]}'},
                files={"0": (f"{user.name}.{named}", content, "application/octet-stream")},
                headers={"Authorization": f"Bearer {user.token}"} if user.token else {},
            )
        else:
            headers = {"Authorization": f"Bearer {user.token}"} if user.token else {}
            body = {"query": query, "variables": variables}
            response = await user.http.post("/graphql", json=body, headers=headers)
        return outcome_of(response.status_code, response.json())

    async def stream_outcome(self, operation: str, user: Client) -> str:
        query, taken = document_of(operation)
        async with user.socket() as socket:
            await socket.subscribe(query, self.variables(operation, taken))
            if not taken:  # it is quiet until something happens: a ping comes back before
                await socket.ping()
            message = await socket.receive()
        if message["type"] == "error":
            code: str = message["payload"][0]["extensions"]["code"]
            return code
        return "value"


def outcome_of(status: int, answer: dict[str, Any]) -> str:
    if status != 200:
        return str(status)
    if "errors" in answer:
        (error,) = answer["errors"]
        code: str = error["extensions"]["code"]
        return code
    (value,) = answer["data"].values()
    value = value.get("results", value) if isinstance(value, dict) else value
    if isinstance(value, list):
        (value,) = value
    if value is None:
        return "null"
    if "nodes" in value:
        return "own" if value["nodes"] else "empty"
    kind: str = value.get("__typename", "")
    return kind if kind.endswith("Error") else "value"


async def new_stage(service: Service, owner: Client) -> Stage:
    url = f"http://{service.simulator.host_port}/Panopto/Pages/Viewer.aspx?id={uuid4()}"
    lecture = (await owner.request(service.course, url))["lecture"]["id"]
    pdf = make_pdf(1) + f"% {uuid4()}".encode()
    document = (await owner.upload(service.course, pdf))["document"]["id"]
    await index_document(service, document)
    transcription = await add_transcription(service, lecture, owner)
    collection = (await owner.run(CREATE_COLLECTION))["collection"]["id"]
    await owner.run(FILL, collection=collection, lecture=lecture)
    topic = (await owner.run(CREATE_TOPIC))["topic"]["id"]
    await owner.run(ASSIGN, topic=topic, transcription=transcription)
    return Stage(service, lecture, document, transcription, collection, topic)


async def index_document(service: Service, document: str) -> None:
    """Let search find it, as if a worker had indexed it."""
    connection = await asyncpg.connect(
        (service.settings.database_url or "").replace("+asyncpg", "")
    )
    try:
        await connection.execute(
            "INSERT INTO document_pages (document_id, page, chunk_index, text, search)"
            " VALUES ($1, 1, 0, $2, to_tsvector('english', $2))",
            UUID(document),
            WRITTEN,
        )
        await connection.execute(
            "UPDATE documents SET indexed_at = now(), text_config = 'english', chunk_count = 1"
            " WHERE id = $1",
            UUID(document),
        )
    finally:
        await connection.close()


async def add_transcription(service: Service, lecture: str, owner: Client) -> str:
    """Add one that waits, as if the lecture had its audio."""
    viewer = await owner.run("{ viewer { id } }")
    connection = await asyncpg.connect(
        (service.settings.database_url or "").replace("+asyncpg", "")
    )
    try:
        id_: UUID = await connection.fetchval(
            "INSERT INTO transcriptions (lecture_id, requested_by, source, model_name)"
            " VALUES ($1, $2, 'speech_recognition', 'base') RETURNING id",
            UUID(lecture),
            UUID(viewer["id"]),
        )
    finally:
        await connection.close()
    return str(id_)


@pytest.fixture
async def service(
    service_settings: Settings, simulator: PanoptoSimulator
) -> AsyncIterator[Service]:
    """The API alone: lectures stay as they were asked for."""
    async with running_service(service_settings, simulator, worker=False) as service:
        yield service


@pytest.fixture
async def stage(service: Service, ada: Client) -> Stage:
    return await new_stage(service, ada)


async def test_queries_and_mutations(service: Service, admin: Client) -> None:
    nobody = Client("nobody", "", service.http, service.address)
    for operation in operations("Query", "Mutation"):
        for role, expected in zip(ROLES, RULES[operation], strict=True):
            owner = service.user(str(uuid4()))
            stage = await new_stage(service, owner)
            user = {"linked": owner, "admin": admin}.get(role) or service.user(str(uuid4()))
            assert await stage.outcome(operation, nobody) == "401", operation
            assert await stage.outcome(operation, user) == expected, (operation, role)
            if expected != "value" or role == "stranger":
                lecture, document = await owner.lecture(stage.lecture), stage.document
                assert lecture["status"] == "PENDING", (operation, role)
                assert await owner.document(document), (operation, role)


DELETES = ("Mutation.deleteLecture", "Mutation.deleteDocument")


async def test_an_admin_deletes_and_nobody_else(
    stage: Stage, ada: Client, bob: Client, admin: Client
) -> None:
    for user in (bob, ada):
        for operation in DELETES:
            assert await stage.outcome(operation, user) == "FORBIDDEN"
    assert await ada.lecture(stage.lecture)
    assert await ada.document(stage.document)
    for operation in DELETES:
        assert await stage.outcome(operation, admin) == "value"
    assert await ada.lecture(stage.lecture) is None
    assert await ada.document(stage.document) is None


async def test_subscriptions(stage: Stage, ada: Client, bob: Client, admin: Client) -> None:
    for role, user in (("stranger", bob), ("linked", ada), ("admin", admin)):
        for operation in operations("Subscription"):
            expected = RULES[operation][ROLES.index(role)]
            assert await stage.stream_outcome(operation, user) == expected, (operation, role)
    async with open_socket(stage.service.address) as socket:
        await socket.send({"type": "connection_init"})
        assert await socket.close_code() == 4401
    async with open_socket(stage.service.address) as socket:
        await socket.subscribe("{ viewer { id } }")
        assert await socket.close_code() == 4401


async def test_files(stage: Stage, ada: Client, bob: Client, admin: Client) -> None:
    path = f"/api/documents/{stage.document}/file"
    assert (await bob.get(path)).status_code == 404
    assert (await bob.get(path)).text.replace(stage.document, "") == (
        await bob.get(f"/api/documents/{uuid4()}/file")
    ).text.replace(stage.document, "")
    assert (await ada.get(path)).status_code == 200
    assert (await admin.get(path)).status_code == 200
    assert (await stage.service.http.get(path)).status_code == 401
    assert (await stage.service.http.head(path)).status_code == 401
    for method in ("PUT", "DELETE", "PATCH", "POST"):
        headers = {"Authorization": f"Bearer {ada.token}"}
        response = await stage.service.http.request(method, path, headers=headers)
        assert response.status_code == 405, method


async def test_paths_that_are_not_there_are_closed_too(service: Service, ada: Client) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/graphql/", "/api", "/health/../graphql/x"):
        assert (await service.http.get(path)).status_code == 401, path
        assert (await ada.get(path)).status_code == 404, path
