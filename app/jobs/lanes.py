"""Which handler does which kind of job, and in which lane."""

from app.domain import JobKind
from app.jobs.runner import JobHandler, Lane

LIGHT_SLOTS = 2
HEAVY_KINDS = frozenset({JobKind.DOWNLOAD_LECTURE})


def lanes_of(handlers: list[JobHandler], heavy_slots: int) -> list[Lane]:
    """Return the lanes: downloads in one, everything light in another, so neither waits."""
    missing = set(JobKind) - {handler.kind for handler in handlers}
    if missing:
        raise ValueError(f"No handler for {sorted(missing)}")
    heavy = [handler for handler in handlers if handler.kind in HEAVY_KINDS]
    light = [handler for handler in handlers if handler.kind not in HEAVY_KINDS]
    return [Lane(heavy, heavy_slots), Lane(light, LIGHT_SLOTS)]
