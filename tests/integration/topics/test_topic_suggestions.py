"""Topics that a model suggests: by the index job, for a new topic, and when asked."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.auth.viewer import Viewer
from app.backends import Backends, open_backends
from app.db import ledger
from app.db.models import Job, Lecture, Topic, Transcription, TranscriptionTopic
from app.domain import JobKind, TopicReview, TranscriptionStatus
from app.embedder.embedder import Embedder, EmbedderFailed
from app.errors import Conflict, NotFound
from app.ingest.pdf import page_texts
from app.services.kernel.quotas import Allowance
from app.services.lectures.request import DownloadRequest, request_download
from app.services.search.index import Indexing
from app.services.topics import assign, change, read
from app.services.topics.judge_job import TopicJudgements
from app.services.topics.suggest import Suggestions, suggest_topics
from app.services.transcripts.payload import store
from app.settings import Settings
from tests.support.library import spoken
from tests.support.rows import add_lecture, add_transcription, add_user

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors

Sessions = async_sessionmaker[AsyncSession]
THRESHOLD = 0.6
LECTURES = {
    "Photosynthesis": (
        "Plants capture sunlight with chlorophyll in their leaves. The light reactions split "
        "water and release oxygen. The Calvin cycle then fixes carbon dioxide into sugar. Without "
        "light the plant lives on the starch that it has stored. Chloroplasts hold the pigments."
    ),
    "French Revolution": (
        "In 1789 a crowd stormed the Bastille in Paris. The king had called the Estates General "
        "because the crown was bankrupt. The National Assembly abolished feudal privileges. "
        "Robespierre led the Terror until he went to the guillotine himself. Napoleon followed."
    ),
    "Contract law": (
        "A contract needs an offer and an acceptance. Consideration is what each party gives. A "
        "breach gives the other party a right to damages. Courts look at what a reasonable person "
        "would have understood. Some agreements must be in writing to be enforced."
    ),
    "Sorting algorithms": (
        "Quicksort picks a pivot and partitions the array around it. Merge sort divides the list "
        "into halves and merges them when they are sorted. Comparison sorts need at least n log n "
        "steps. Insertion sort is fast where the input is nearly sorted. A heap finds the largest."
    ),
}
DESCRIPTIONS = {
    "Photosynthesis": "how plants make sugar from light",
    "French Revolution": "the end of the monarchy in France, 1789 to 1799",
    "Contract law": "how agreements bind, and what follows when they are broken",
    "Sorting algorithms": "putting lists in order, and what it costs",
}
NEITHER = (
    "Sourdough bread rises because wild yeast makes gas in the dough. Knead it until it is smooth "
    "and let it rest overnight. Bake it in a hot oven with steam so that the crust stays soft. "
    "Salt slows the yeast down and gives taste. Rye flour makes a heavier loaf."
)


@pytest.fixture
async def backends(settings: Settings) -> AsyncIterator[Backends]:
    async with open_backends(settings) as backends:
        yield backends


@pytest.fixture
async def ada(sessions: Sessions) -> Viewer:
    return await add_user(sessions)


class Passing:
    """The installed embedder, for what is done to one on the way."""

    def __init__(self, real: Embedder | None) -> None:
        assert real is not None
        self.real = real
        self.model, self.least_similarity = real.model, real.least_similarity

    async def embed(self, texts: Sequence[str]) -> "Vectors":
        return await self.real.embed(texts)

    async def embed_query(self, text: str) -> "Vectors":
        return await self.real.embed_query(text)


async def add_spoken(backends: Backends, sessions: Sessions, text: str, *viewers: Viewer) -> UUID:
    """Add a lecture with a COMPLETED transcription that is to be indexed."""
    id_ = await add_transcription(sessions, await add_lecture(sessions, *viewers))
    key = await store(backends.storage, id_, spoken(text))
    async with sessions.begin() as session:
        completed = update(Transcription).where(Transcription.id == id_)
        values = {
            "status": TranscriptionStatus.COMPLETED,
            "storage_key": key,
            "language": "en",
            "completed_at": func.now(),
        }
        await session.execute(completed.values(values))
        await ledger.open_job(session, JobKind.INDEX, id_, None)
    return id_


async def work_off(backends: Backends, *kinds: JobKind) -> list[str]:
    """Do the jobs that are due, and return how each ended."""
    handlers = {
        JobKind.INDEX: Indexing(
            backends.work, backends.storage, backends.scratch, backends.embedder, page_texts
        ),
        JobKind.JUDGE_TOPICS: TopicJudgements(backends.work, backends.embedder, THRESHOLD),
    }
    ends = []
    for kind in kinds:
        async with backends.sessions.begin() as session:
            leases = await ledger.claim(session, [kind], 100, 600)
        ends += [await handlers[kind].run(lease) for lease in leases]
    return ends


async def suggested(
    sessions: Sessions, viewer: Viewer, transcription: UUID
) -> dict[str, TranscriptionTopic]:
    async with sessions() as session:
        found = await read.assignments_of(session, viewer, [transcription])
    return {row.topic.name: row for row in found[transcription]}


async def new_topic(backends: Backends, viewer: Viewer, name: str) -> UUID:
    row = await change.create_topic(backends.work, viewer, name, DESCRIPTIONS.get(name))
    return row.id


INDEX, JUDGE = JobKind.INDEX, JobKind.JUDGE_TOPICS


async def test_each_lecture_gets_the_topic_that_it_is_about_and_a_fifth_gets_none(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    for name in LECTURES:
        await new_topic(backends, ada, name)
    assert await work_off(backends, JUDGE) == ["done"]  # one job, and nothing to judge yet
    made = {
        name: await add_spoken(backends, sessions, text, ada)
        for name, text in (LECTURES | {"": NEITHER}).items()
    }
    assert await work_off(backends, INDEX, JUDGE) == ["done"] * 10
    found = {name: await suggested(sessions, ada, id_) for name, id_ in made.items()}
    assert {name: list(topics) for name, topics in found.items()} == {
        **{name: [name] for name in LECTURES},
        "": [],
    }
    for name, topics in found.items():
        for row in topics.values():
            assert row.assigned_by is None
            assert row.review is TopicReview.UNREVIEWED
            assert row.ai_confidence is not None
            assert THRESHOLD <= row.ai_confidence <= 1
            at, _, passage = (row.ai_reasoning or "").partition(" ")
            assert at == "0:00"
            assert LECTURES[name].startswith(passage[:40])


async def test_a_new_and_a_changed_topic_are_judged_against_what_is_there(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    bob = await add_user(sessions)
    plants = await add_spoken(backends, sessions, LECTURES["Photosynthesis"], ada, bob)
    history = await add_spoken(backends, sessions, LECTURES["French Revolution"], ada)
    await work_off(backends, INDEX, JUDGE)
    topic = await new_topic(backends, ada, "Photosynthesis")
    await work_off(backends, JUDGE)
    assert list(await suggested(sessions, ada, plants)) == ["Photosynthesis"]
    assert await suggested(sessions, ada, history) == {}
    assert await suggested(sessions, bob, plants) == {}

    name = "French Revolution"
    changed = {"name": name, "description": DESCRIPTIONS[name]}
    await change.update_topic(backends.work, ada, topic, changed)
    await work_off(backends, JUDGE)
    assert await suggested(sessions, ada, plants) == {}
    assert list(await suggested(sessions, ada, history)) == [name]
    # What changes nothing needs no work.
    await change.update_topic(backends.work, ada, topic, {"name": name})
    assert await work_off(backends, JUDGE) == []


async def test_a_lecture_that_others_had_already_is_judged_for_whoever_comes(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    words = await add_spoken(backends, sessions, LECTURES["Contract law"], ada)
    bob, cleo = await add_user(sessions), await add_user(sessions)
    await new_topic(backends, bob, "Contract law")
    await work_off(backends, INDEX, JUDGE)
    async with sessions() as session:
        row = (await session.scalars(select(Lecture))).one()
    for viewer in (bob, cleo):
        allowance = Allowance(backends.requests, viewer.id, None)
        request = DownloadRequest(row.course_id, row.panopto_url)
        await request_download(backends.work, viewer, request, (), allowance)
    assert await suggested(sessions, bob, words) == {}
    assert await work_off(backends, JUDGE) == ["done"]  # Cleo has no topics.
    assert list(await suggested(sessions, bob, words)) == ["Contract law"]


async def test_what_the_viewer_has_said_stays(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    plants, law = "Photosynthesis", "Contract law"
    topics = {name: await new_topic(backends, ada, name) for name in (plants, law)}
    words = await add_spoken(backends, sessions, LECTURES[plants], ada)
    await work_off(backends, INDEX, JUDGE)
    await assign.review_topic(backends.work, ada, words, topics[plants], accept=False)
    await assign.assign_topics(backends.work, ada, words, [topics[law]])

    async def judge_again() -> dict[str, TranscriptionTopic]:
        await suggest_topics(backends.work, backends.embedder, THRESHOLD, ada, words)
        return await suggested(sessions, ada, words)

    found = await judge_again()
    assert found[plants].review is TopicReview.REJECTED
    assert (found[law].assigned_by, found[law].ai_confidence) == (ada.id, None)
    # Accepted, it stays, though the topic becomes another that nothing speaks for.
    await assign.review_topic(backends.work, ada, words, topics[plants], accept=True)
    confidence = found[plants].ai_confidence
    await change.update_topic(
        backends.work, ada, topics[plants], {"name": "Bread", "description": None}
    )
    found = await judge_again()
    assert found["Bread"].review is TopicReview.ACCEPTED
    assert found["Bread"].ai_confidence == confidence
    await change.update_topic(
        backends.work, ada, topics[plants], {"name": plants, "description": DESCRIPTIONS[plants]}
    )
    # Unassigned, it may come again.
    await assign.unassign_topic(backends.work, ada, words, topics[plants])
    found = await judge_again()
    assert found[plants].review is TopicReview.UNREVIEWED


async def test_without_an_index_nothing_is_suggested(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    await new_topic(backends, ada, "Photosynthesis")
    words = await add_spoken(backends, sessions, LECTURES["Photosynthesis"], ada)
    stranger = await add_user(sessions)
    for viewer, embedder, error in (
        (ada, backends.embedder, Conflict),
        (ada, None, Conflict),
        (stranger, backends.embedder, NotFound),
    ):
        with pytest.raises(error):
            await suggest_topics(backends.work, embedder, THRESHOLD, viewer, words)
    assert await work_off(backends, JUDGE) == ["done"]
    assert await suggested(sessions, ada, words) == {}
    # Nor with another model's.
    await work_off(backends, INDEX)
    async with sessions.begin() as session:
        await session.execute(update(Transcription).values(embedder="another"))
    with pytest.raises(Conflict):
        await suggest_topics(backends.work, backends.embedder, THRESHOLD, ada, words)
    assert await work_off(backends, JUDGE) == ["done"]
    assert await suggested(sessions, ada, words) == {}


async def test_a_topic_that_changes_while_it_is_judged_is_judged_again(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    """The job that judges it is open, so the change opens none: the job finds out at its end."""
    words = await add_spoken(backends, sessions, LECTURES["French Revolution"], ada)
    await work_off(backends, INDEX, JUDGE)
    topic = await new_topic(backends, ada, "Photosynthesis")

    class Slow(Passing):
        async def embed(self, texts: Sequence[str]) -> "Vectors":
            made = await self.real.embed(texts)
            name = "French Revolution"
            changed = {"name": name, "description": DESCRIPTIONS[name]}
            await change.update_topic(backends.work, ada, topic, changed)
            return made

    async with sessions.begin() as session:
        (lease,) = await ledger.claim(session, [JUDGE], 100, 600)
    judging = TopicJudgements(backends.work, Slow(backends.embedder), THRESHOLD)
    assert await judging.run(lease) == "retried"
    assert await suggested(sessions, ada, words) == {}
    async with sessions() as session:
        row = (await session.scalars(select(Topic))).one()
        assert row.embedding is None  # that of the old name was not kept
    assert await work_off(backends, JUDGE) == ["done"]
    assert list(await suggested(sessions, ada, words)) == ["French Revolution"]


async def test_what_is_indexed_anew_while_it_is_judged_is_judged_again(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    words = await add_spoken(backends, sessions, LECTURES["French Revolution"], ada)
    await new_topic(backends, ada, "French Revolution")
    await work_off(backends, INDEX)

    class Slow(Passing):
        async def embed(self, texts: Sequence[str]) -> "Vectors":
            async with sessions.begin() as session:
                await session.execute(update(Transcription).values(indexed_at=func.now()))
            return await self.real.embed(texts)

    async with sessions.begin() as session:
        leases = await ledger.claim(session, [JUDGE], 100, 600)
    (lease,) = [each for each in leases if each.subject_id == words]
    judging = TopicJudgements(backends.work, Slow(backends.embedder), THRESHOLD)
    assert await judging.run(lease) == "retried"
    assert await work_off(backends, JUDGE) == ["done"]


async def test_a_model_that_fails_is_tried_again_and_given_up(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    await add_spoken(backends, sessions, LECTURES["Contract law"], ada)
    await work_off(backends, INDEX, JUDGE)
    await new_topic(backends, ada, "Contract law")

    class Broken(Passing):
        async def embed(self, texts: Sequence[str]) -> "Vectors":
            raise EmbedderFailed("/models/secret.onnx is broken")

    ends = []
    for _ in range(5):
        async with sessions.begin() as session:
            await session.execute(update(Job).values(run_at=func.now()))
            (lease,) = await ledger.claim(session, [JUDGE], 100, 600)
        ends.append(
            await TopicJudgements(backends.work, Broken(backends.embedder), THRESHOLD).run(lease)
        )
    assert ends == ["retried"] * 4 + ["failed"]
    async with sessions() as session:
        errors = set(await session.scalars(select(Job.last_error).where(Job.kind == JUDGE)))
    assert not any("secret" in (error or "") for error in errors)


async def test_vectors_of_topics_are_made_once(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    for name in DESCRIPTIONS:
        await new_topic(backends, ada, name)
    asked: list[int] = []

    class Counting(Passing):
        async def embed(self, texts: Sequence[str]) -> "Vectors":
            asked.append(len(texts))
            return await self.real.embed(texts)

    suggestions = Suggestions(backends.work, Counting(backends.embedder), THRESHOLD)
    first = await suggestions.read_topics(ada.id)
    again = await suggestions.read_topics(ada.id)
    assert asked == [4]
    assert (first.vectors == again.vectors).all()
    assert (await suggestions.read_topics(uuid4())).ids == []
