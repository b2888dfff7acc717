"""Ends transactions whose process fell silent where the server's own limit does not look.

asyncpg asks for a statement to be parsed (Parse, Describe, Flush), waits for the answer, and sends
what runs it only then.  A process that is stopped in between is in the midst of a statement, as far
as PostgreSQL can tell: ``idle_in_transaction_session_timeout`` does not count,
``statement_timeout`` ends nothing while a message is waited for, and the transaction's row locks
stay for as long as the process is stopped.
"""

from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import IDLE_SECONDS

_END = text(
    """
    WITH client AS MATERIALIZED (
        SELECT pid, usename, state, state_change, wait_event_type, wait_event
        FROM pg_stat_activity WHERE datname = current_database()
    ), silent AS (
        SELECT pid FROM client
        WHERE usename = current_user AND state = 'active' AND wait_event = 'ClientRead'
          AND state_change < now() - CAST(:silence AS interval)
          AND now() < CAST(:trusted_until AS timestamptz)
    )
    SELECT pg_terminate_backend(pid) FROM silent
    WHERE EXISTS (SELECT FROM client WHERE wait_event_type = 'Lock'
                  AND silent.pid = ANY(pg_blocking_pids(client.pid)))
    """
)


async def end_silent_clients(
    session: AsyncSession,
    trusted_until: datetime,
    silence: timedelta = timedelta(seconds=IDLE_SECONDS),
) -> int:
    """End what others wait for and whose client says nothing; return how many those were.

    Only connections of the same database and role, in the midst of a statement that is not being
    worked on for as long as ``silence``.  After a freeze of the database everyone seems to have
    been silent: so none is ended later than `Contact.trusted_until`.
    """
    parameters = {"silence": silence, "trusted_until": trusted_until}
    return sum((await session.scalars(_END, parameters)).all())
