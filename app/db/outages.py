"""Telling a database that is away for a while from a mistake of ours in using it."""

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

_PASSING = ("08", "25P03", "25P04", "40", "53", "55P03", "57", "58")
"""SQLSTATE classes and codes (PostgreSQL's appendix A): the connection, a time limit of the
server's, a deadlock, a lack of resources, a lock, an operator's intervention, the system."""


def is_outage(error: Exception) -> bool:
    """Whether the same statement may well succeed later, with nothing changed by us.

    A connection that cannot be made is an `OSError`, since the driver passes it through.  What has
    no SQLSTATE never reached the server: a line that broke, unless the driver found a value that
    it cannot send.
    """
    if isinstance(error, OSError | PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is None:
        return error.orig is not None and not isinstance(error.orig.__cause__, ValueError)
    return error.connection_invalidated or sqlstate.startswith(_PASSING)
