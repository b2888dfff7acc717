"""For how long a process has been in touch with the database, in the database's own time.

A database that is frozen, cut off or moved to another machine lets leases run out whose holders are
well: they could not renew them.  To everyone that was cut off with them, time seems to jump.  So a
lease that has merely run out is believed only by who has seen the database all along.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

LONGEST_GAP = timedelta(seconds=3)
"""Less than what a lease has left between two heartbeats: who saw no longer gap missed nothing."""


@dataclass(frozen=True, slots=True)
class Contact:
    """From ``since`` to ``seen_at`` the database has answered, without a gap of `LONGEST_GAP`."""

    since: datetime
    seen_at: datetime

    def trusted_until(self, lease: timedelta) -> datetime | None:
        """Return until when a lease that ran out tells of its holder's end; None if not yet.

        In the database's time: a statement that is sent before a freeze is run after it.
        """
        return self.seen_at + LONGEST_GAP if self.seen_at - self.since >= lease else None


def prolonged(contact: Contact | None, now: datetime) -> Contact:
    """Return the contact after an answer at ``now``; it begins anew after a gap."""
    if contact is None or not timedelta(0) <= now - contact.seen_at <= LONGEST_GAP:
        return Contact(now, now)
    return Contact(contact.since, now)
