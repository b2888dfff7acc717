"""What obstore raises, by the names that every store has for it."""

import contextlib
from collections.abc import Iterator

from obstore.exceptions import BaseError

from app.errors import ObjectNotFound, StorageError


@contextlib.contextmanager
def errors_of_writing() -> Iterator[None]:
    """Turn what obstore raises into `StorageError`."""
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise StorageError("The file could not be stored.") from error


@contextlib.contextmanager
def errors_of_moving() -> Iterator[None]:
    """The same, and `ObjectNotFound` where there is nothing to move."""
    with errors_of_writing():
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectNotFound from error


@contextlib.contextmanager
def errors_of_reading() -> Iterator[None]:
    """Turn what obstore raises into `ObjectNotFound` or `StorageError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectNotFound from error
    except (BaseError, OSError, ValueError) as error:
        raise StorageError("The stored object could not be read.") from error
