"""How wide each lane is."""

from collections.abc import Sequence

from app.domain import JobKind
from app.jobs.runner import Slots
from app.services.kernel.jobs import JobHandler, Lane

LIGHT_SLOTS = 2


def lanes_of(handlers: Sequence[JobHandler], downloads: int) -> list[Slots]:
    """Return each lane's handlers and slots; raise ValueError where a kind has no handler."""
    missing = set(JobKind) - {handler.kind for handler in handlers}
    if missing:
        raise ValueError(f"No handler for {sorted(missing)}")
    widths = {Lane.DOWNLOADS: downloads, Lane.LIGHT: LIGHT_SLOTS}
    return [
        Slots([each for each in handlers if each.lane is lane], width)
        for lane, width in widths.items()
    ]
