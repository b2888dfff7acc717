"""The recipe for Python of docs/clients.md, run by gql."""

import types
from pathlib import Path
from uuid import uuid4

from app.embedded.panopto import Recording
from tests.clients.recipes import recipes
from tests.support.pdfs import make_pdf
from tests.support.service import Client, Service


def _recipe() -> types.ModuleType:
    module = types.ModuleType("gql_client")
    exec(recipes()["gql_client.py"], module.__dict__)
    return module


async def test_gql_asks_uploads_and_watches(
    service: Service, ada: Client, recording: Recording, tmp_path: Path
) -> None:
    recipe, url, token = _recipe(), f"{service.address}/graphql", ada.token
    address = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, address))["lecture"]["id"]
    query = "query ($id: ID!) { lecture(id: $id) { id status } }"
    asked = await recipe.ask(url, token, query, id=lecture_id)
    assert asked["lecture"]["id"] == lecture_id

    file = tmp_path / "Größe ä.pdf"
    file.write_bytes(make_pdf(1))
    answer = await recipe.upload(url, token, str(uuid4()), str(file))
    assert answer["uploadDocument"]["document"]["filename"] == file.name

    query = "subscription ($id: ID!) { lectureStatus(id: $id) { status } }"
    states = [each async for each in recipe.watch(url, token, query, id=lecture_id)]
    assert states[-1]["lectureStatus"]["status"] == "COMPLETED"
