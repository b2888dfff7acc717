"""How many connections one user keeps open to this process: sockets and event streams together."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from app.errors import RateLimited

MAX_CONNECTIONS = 100

_RETRY_AFTER_SECONDS = 30


class UserConnections:
    """Counts the open ones."""

    def __init__(self) -> None:
        self._open: Counter[UUID] = Counter()

    @contextmanager
    def counting(self, user_id: UUID) -> Iterator[None]:
        """Count one more while the block runs, or raise `RateLimited` where there are enough."""
        if self._open[user_id] >= MAX_CONNECTIONS:
            raise RateLimited(_RETRY_AFTER_SECONDS)
        self._open[user_id] += 1
        try:
            yield
        finally:
            self._open[user_id] -= 1
            if not self._open[user_id]:
                del self._open[user_id]
