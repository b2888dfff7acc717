"""A student's collections, as clients see them."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from app.embedded.panopto import PanoptoSimulator
from app.settings import Settings
from tests.support.pdfs import make_pdf
from tests.support.service import Client, Service, running_service

COLLECTION = """
fragment C on Collection {
  id name description
  items { totalCount pageInfo { hasNextPage endCursor } edges { cursor node {
    position addedAt subject { __typename ... on Lecture { id } ... on Document { id filename } }
  } } }
}
"""
INVALID = "... on InvalidInputError { fieldErrors { path code } }"
MISSING = "... on NotFoundError { missingId }"
CHANGED = "__typename ... on CollectionPayload { collection { ...C } }"
CREATE = f"""
mutation ($input: CreateCollectionInput!) {{
  createCollection(input: $input) {{ {CHANGED} {INVALID} }}
}} {COLLECTION}"""
UPDATE = f"""
mutation ($input: UpdateCollectionInput!) {{
  updateCollection(input: $input) {{ {CHANGED} {INVALID} {MISSING} }}
}} {COLLECTION}"""
ADD = f"""
mutation ($input: AddToCollectionInput!) {{
  addToCollection(input: $input) {{ {CHANGED} {INVALID} {MISSING} }}
}} {COLLECTION}"""
REMOVE = f"""
mutation ($collection: ID!, $subject: ID!) {{
  removeFromCollection(collectionId: $collection, subjectId: $subject) {{ {CHANGED} {MISSING} }}
}} {COLLECTION}"""
DELETE = f"""
mutation ($id: ID!) {{
  deleteCollection(id: $id) {{ ... on DeleteCollectionPayload {{ collectionId }} {MISSING} }}
}}"""


@pytest.fixture
async def service(
    service_settings: Settings, simulator: PanoptoSimulator
) -> AsyncIterator[Service]:
    """The API alone: lectures stay as they were asked for."""
    async with running_service(service_settings, simulator, worker=False) as service:
        yield service


async def new_lecture(service: Service, user: Client) -> str:
    url = f"http://{service.simulator.host_port}/Panopto/Pages/Viewer.aspx?id={uuid4()}"
    id_: str = (await user.request(service.course, url))["lecture"]["id"]
    return id_


def subjects(collection: Any) -> list[str]:
    nodes = [edge["node"] for edge in collection["items"]["edges"]]
    assert [node["position"] for node in nodes] == list(range(len(nodes)))
    return [node["subject"]["id"] for node in nodes]


async def test_a_collection_from_the_first_item_to_its_end(
    service: Service, ada: Client, bob: Client
) -> None:
    made = await ada.run(CREATE, input={"name": " Exam ", "description": "May"})
    collection = made["collection"]
    assert (collection["name"], collection["description"]) == ("Exam", "May")
    id_ = collection["id"]
    lecture = await new_lecture(service, ada)
    pdf = (await ada.upload(service.course, make_pdf(1), "mine.pdf"))["document"]["id"]
    other = await new_lecture(service, ada)
    for subject, position in ((lecture, None), (pdf, 0), (other, 1)):
        given = {"collectionId": id_, "subjectId": subject, "position": position}
        answer = await ada.run(ADD, input=given)
    collection = answer["collection"]
    assert subjects(collection) == [pdf, other, lecture]
    assert collection["items"]["totalCount"] == 3
    first = collection["items"]["edges"][0]
    assert first["node"]["subject"] == {
        "__typename": "Document",
        "id": pdf,
        "filename": "mine.pdf",
    }

    page = await ada.run(
        "query ($id: ID!, $after: String) { collection(id: $id) {"
        " items(first: 1, after: $after) { pageInfo { hasNextPage } nodes { position } } } }",
        id=id_,
        after=first["cursor"],
    )
    assert page["items"] == {"pageInfo": {"hasNextPage": True}, "nodes": [{"position": 1}]}

    for name, expected in (("lectures", {lecture, other}), ("documents", {pdf})):
        query = f"query ($id: ID) {{ {name}(collectionId: $id) {{ totalCount nodes {{ id }} }} }}"
        found = await ada.run(query, id=id_)
        assert {node["id"] for node in found["nodes"]} == expected
        assert found["totalCount"] == len(expected)
        for user, asked in ((ada, str(uuid4())), (bob, id_)):
            assert await user.run(query, id=asked) == {"totalCount": 0, "nodes": []}
        assert await ada.code(query, id="no id") == "BAD_USER_INPUT"

    node = "query ($id: ID!) { node(id: $id) { __typename id } }"
    assert await ada.run(node, id=id_) == {"__typename": "Collection", "id": id_}
    assert await bob.run(node, id=id_) is None

    named = await ada.run(UPDATE, input={"id": id_, "name": "Finals"})
    assert (named["collection"]["name"], named["collection"]["description"]) == ("Finals", "May")
    cleared = await ada.run(UPDATE, input={"id": id_, "description": None})
    assert (cleared["collection"]["name"], cleared["collection"]["description"]) == ("Finals", None)
    bare = await ada.run(REMOVE, collection=id_, subject=other)
    assert subjects(bare["collection"]) == [pdf, lecture]
    again = await ada.run(REMOVE, collection=id_, subject=other)
    assert (again["__typename"], again["missingId"]) == ("NotFoundError", other)

    unlink = "mutation ($id: ID!) { unlinkDocument(id: $id) { __typename } }"
    await ada.run(unlink, id=pdf)
    listed = await ada.run("{ collections { totalCount nodes { ...C } } }" + COLLECTION)
    assert listed["totalCount"] == 1
    assert subjects(listed["nodes"][0]) == [lecture]
    assert (await ada.run(DELETE, id=id_))["collectionId"] == id_
    assert (await ada.run(DELETE, id=id_))["missingId"] == id_
    assert (await ada.lecture(lecture))["id"] == lecture


async def test_what_is_refused_says_where(ada: Client, service: Service) -> None:
    refused = await ada.run(CREATE, input={"name": "x" * 101})
    assert refused["fieldErrors"] == [{"path": ["input", "name"], "code": "TOO_LONG"}]
    id_ = (await ada.run(CREATE, input={"name": "Exam"}))["collection"]["id"]
    lecture = await new_lecture(service, ada)
    refused = await ada.run(ADD, input={"collectionId": id_, "subjectId": lecture, "position": -1})
    assert refused["fieldErrors"] == [{"path": ["input", "position"], "code": "MALFORMED"}]
    missing = await ada.run(ADD, input={"collectionId": id_, "subjectId": id_})
    assert missing["missingId"] == id_
    kept = await ada.run("query ($id: ID!) { collection(id: $id) { ...C } }" + COLLECTION, id=id_)
    assert subjects(kept) == []
    items = "query ($id: ID!) { collection(id: $id) { items(first: 0) { totalCount } } }"
    assert await ada.code(items, id=id_) == "BAD_USER_INPUT"
    items = 'query ($id: ID!) { collection(id: $id) { items(after: "x") { totalCount } } }'
    assert await ada.code(items, id=id_) == "BAD_USER_INPUT"
