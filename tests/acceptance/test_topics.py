"""A student's topics, as clients see them."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.embedded.panopto import PanoptoSimulator
from app.settings import Settings
from tests.support.rows import add_transcription
from tests.support.service import Client, Service, running_service

TOPIC = "__typename ... on TopicPayload { topic { id name description lectureCount } }"
ASSIGNMENT = "topic { id name } transcription { id } assignedBy confidence reasoning review"
INVALID = "... on InvalidInputError { fieldErrors { path code } }"
ERRORS = f"{INVALID} ... on ConflictError {{ message }}"
MISSING = "... on NotFoundError { missingId }"
CREATE = f"""
mutation ($input: CreateTopicInput!) {{ createTopic(input: $input) {{ {TOPIC} {ERRORS} }} }}"""
UPDATE = f"""
mutation ($input: UpdateTopicInput!) {{ updateTopic(input: $input) {{ {TOPIC} {ERRORS} }} }}"""
ASSIGN = f"""
mutation ($words: ID!, $topics: [ID!]!) {{
  assignTopics(transcriptionId: $words, topicIds: $topics) {{
    ... on TopicAssignmentsPayload {{ transcription {{ topics {{ {ASSIGNMENT} }} }} }}
    {INVALID} {MISSING}
  }}
}}"""
UNASSIGN = f"""
mutation ($words: ID!, $topic: ID!) {{
  unassignTopic(transcriptionId: $words, topicId: $topic) {{
    ... on TopicAssignmentsPayload {{ transcription {{ topics {{ {ASSIGNMENT} }} }} }} {MISSING}
  }}
}}"""
REVIEW = f"""
mutation ($words: ID!, $topic: ID!, $accept: Boolean!) {{
  reviewTopic(transcriptionId: $words, topicId: $topic, accept: $accept) {{
    ... on TopicAssignmentPayload {{ assignment {{ {ASSIGNMENT} }} }} {MISSING}
  }}
}}"""


@pytest.fixture
async def service(
    service_settings: Settings, simulator: PanoptoSimulator
) -> AsyncIterator[Service]:
    """The API alone: lectures stay as they were asked for."""
    async with running_service(service_settings, simulator, worker=False) as service:
        yield service


async def test_a_topic_from_its_name_to_its_end(
    service: Service, ada: Client, bob: Client, sessions: async_sessionmaker[AsyncSession]
) -> None:
    url = f"http://{service.simulator.host_port}/Panopto/Pages/Viewer.aspx?id={uuid4()}"
    lecture = (await ada.request(service.course, url))["lecture"]["id"]
    await bob.request(service.course, url)
    words = str(await add_transcription(sessions, UUID(lecture)))

    topic = (await ada.run(CREATE, input={"name": " Straße ", "description": "Roads"}))["topic"]
    assert topic == {
        "id": topic["id"],
        "name": "Straße",
        "description": "Roads",
        "lectureCount": 0,
    }
    id_ = topic["id"]
    taken = await ada.run(CREATE, input={"name": "STRASSE"})
    assert taken["__typename"] == "ConflictError"
    refused = await ada.run(UPDATE, input={"id": id_, "name": " "})
    assert refused["fieldErrors"] == [{"path": ["input", "name"], "code": "REQUIRED"}]
    renamed = await ada.run(UPDATE, input={"id": id_, "name": "Roads"})
    assert (renamed["topic"]["name"], renamed["topic"]["description"]) == ("Roads", "Roads")

    by_hand = {
        "topic": {"id": id_, "name": "Roads"},
        "transcription": {"id": words},
        "assignedBy": "USER",
        "confidence": None,
        "reasoning": None,
        "review": "ACCEPTED",
    }
    assigned = await ada.run(ASSIGN, words=words, topics=[id_])
    assert assigned["transcription"]["topics"] == [by_hand]
    stranger = await bob.run(ASSIGN, words=words, topics=[id_])
    assert stranger["missingId"] == id_
    theirs = "query ($id: ID!) { transcription(id: $id) { topics { review } } }"
    assert await bob.run(theirs, id=words) == {"topics": []}
    none = await ada.run(ASSIGN, words=words, topics=[])
    assert none["fieldErrors"] == [{"path": ["topicIds"], "code": "REQUIRED"}]

    listed = "query ($id: ID) { lectures(topicId: $id) { totalCount nodes { id } } }"
    assert await ada.run(listed, id=id_) == {"totalCount": 1, "nodes": [{"id": lecture}]}
    assert await bob.run(listed, id=id_) == {"totalCount": 0, "nodes": []}
    rejected = await ada.run(REVIEW, words=words, topic=id_, accept=False)
    assert rejected["assignment"] == by_hand | {"review": "REJECTED"}
    assert await ada.run(listed, id=id_) == {"totalCount": 0, "nodes": []}
    count = "query ($id: ID!) { topic(id: $id) { lectureCount } }"
    assert await ada.run(count, id=id_) == {"lectureCount": 0}
    assert await bob.run(count, id=id_) is None

    emptied = await ada.run(UNASSIGN, words=words, topic=id_)
    assert emptied["transcription"]["topics"] == []
    again = await ada.run(UNASSIGN, words=words, topic=id_)
    assert again["missingId"] == id_
    found = await ada.run('{ topics(search: "road") { totalCount nodes { id } } }')
    assert found == {"totalCount": 1, "nodes": [{"id": id_}]}
    node = "query ($id: ID!) { node(id: $id) { __typename } }"
    assert await ada.run(node, id=id_) == {"__typename": "Topic"}
    delete = (
        "mutation ($id: ID!) { deleteTopic(id: $id) {"
        f" ... on DeleteTopicPayload {{ topicId }} {MISSING} }} }}"
    )
    assert await bob.run(delete, id=id_) == {"missingId": id_}
    assert await ada.run(delete, id=id_) == {"topicId": id_}
    assert await ada.run(delete, id=id_) == {"missingId": id_}
