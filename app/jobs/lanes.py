"""How wide each lane is."""

from collections.abc import Sequence

from app.domain import JobKind
from app.jobs.runner import Slots
from app.services.kernel.jobs import JobHandler, Lane
from app.settings import Settings

LIGHT_SLOTS = 2


def lanes_of(
    handlers: Sequence[JobHandler], settings: Settings, *, can_transcribe: bool
) -> list[Slots]:
    """Return each lane's handlers and slots; raise ValueError where a kind has no handler.

    A worker that has no model never claims a transcription, nor one without a language model a
    summary.
    """
    missing = set(JobKind) - {handler.kind for handler in handlers}
    if missing:
        raise ValueError(f"No handler for {sorted(missing)}")

    def slots(lane: Lane, count: int, most_per_user: int | None = None) -> Slots:
        return Slots([each for each in handlers if each.lane is lane], count, most_per_user)

    transcriptions = settings.transcribe_concurrency if can_transcribe else 0
    return [
        slots(Lane.DOWNLOADS, settings.worker_concurrency),
        slots(Lane.TRANSCRIPTIONS, transcriptions, settings.max_user_transcriptions),
        slots(Lane.INDEXING, 1),  # The embedder has one thread.
        slots(Lane.SUMMARIES, 0 if settings.llm_base_url is None else 1),
        slots(Lane.LIGHT, LIGHT_SLOTS),
    ]
