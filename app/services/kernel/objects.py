"""Deleting objects whose rows say that they are not needed any more."""

from collections.abc import Sequence

import structlog

from app.errors import StorageError
from app.storage.protocol import ObjectStore

log = structlog.get_logger()


async def delete_objects(storage: ObjectStore, keys: Sequence[str]) -> None:
    """Delete the objects; what fails here is left to the sweep."""
    if not keys:
        return
    try:
        await storage.delete_files(keys)
    except StorageError:
        log.warning("objects_left_to_the_sweep", keys=keys, exc_info=True)
