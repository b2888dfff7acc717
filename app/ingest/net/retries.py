"""How much trouble of a source one attempt bears before it is left to the job's own retries."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from app.errors import IngestFailed
from app.ingest.net.host_limits import Doubt, HostLimit

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How much is borne within one attempt; what is more goes to the job's own retries.

    Waits are half of ``min(longest, first * 2**n)`` at least and all of it at most, on top of a
    Retry-After: spread, but never none.  One above ``longest_wait_seconds`` is left to the job.
    """

    tries_without_progress: int = 2
    """How often it is tried again without success, or, of a file, without enough new bytes."""
    tries_in_all: int = 1000
    restarts: int = 1
    """How often a file is begun anew that has changed, or cannot be gone on with."""
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 5.0

    async def wait(self, tries: int, failure: IngestFailed) -> None:
        """Wait before try number ``tries`` (the first is 1), or raise the failure at once."""
        named = failure.retry_after_seconds or 0.0
        if named > self.longest_wait_seconds:
            raise failure
        ceiling = min(self.longest_wait_seconds, self.first_wait_seconds * 2 ** (tries - 1))
        jittered = random.uniform(ceiling / 2, ceiling)  # noqa: S311 - guards no secret
        await asyncio.sleep(named + jittered)


PATIENCE = Patience()


class Retries:
    """Tries again what one attempt asks of a source side by side, a few times and with pauses.

    One pauses for all: while it does, nothing is asked, and after it one asks before the others
    do.  Where so many tries in a row have failed again, whoever made them, nothing more is asked;
    where all those of one request have, that one fails.  What a host refuses for being asked too
    much at once (`HostLimit`) may count for nothing: it is asked again, with fewer beside it.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._pausing = asyncio.Lock()
        self._trouble: IngestFailed | None = None
        """What was answered last, where that was no success."""
        self._was_answered = False
        self._failed_again = 0
        self._failures = 0

    async def of(
        self,
        ask: Callable[[], Awaitable[T]],
        limit: HostLimit,
        *,
        is_urgent: Callable[[], bool] = lambda: False,
        tries_again: bool = True,
    ) -> T:
        """Return the answer, or raise `IngestFailed`; what ``is_urgent`` waits for no ``limit``."""
        doubt = Doubt(limit)
        most = self._patience.tries_without_progress if tries_again else 0
        asked = tries = 0
        while True:
            async with (
                self._turn(asked) as is_alone,
                limit.place((lambda: True) if is_alone else is_urgent) as how_many,
            ):
                if not is_alone and self._pausing.locked():  # Trouble came while it waited.
                    continue
                failures_before = self._failures
                try:
                    answer = await ask()
                except IngestFailed as failure:
                    asked += 1
                    self._failures += 1
                    is_doubted = doubt.is_due(failure, how_many())
                    if failure.retry_after_seconds and self._was_answered:
                        doubt.resolve()  # The wait may be too long to ask again here.
                    if not is_doubted:
                        tries += 1
                        if not failure.transient or tries > most:
                            raise
                        self._failed_again += asked > 1
                    self._trouble = failure
                else:
                    if failures_before == self._failures:  # Else it was asked before the trouble.
                        self._trouble, self._failed_again = None, 0
                    self._was_answered = True
                    doubt.resolve()
                    return answer

    @asynccontextmanager
    async def _turn(self, asked: int) -> AsyncIterator[bool]:
        """Wait while another is tried again; yield whether this is such a try.

        After a failure each is tried again by itself, until one is answered well.
        """
        async with self._pausing:
            self._require_hope()
            if self._trouble and asked:
                await self._patience.wait(asked, self._trouble)
                self._require_hope()
                yield True
                return
        yield False

    def _require_hope(self) -> None:
        if self._trouble and self._failed_again >= self._patience.tries_without_progress:
            raise self._trouble
