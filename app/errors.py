"""Domain errors: a stable code, typed fields, and a message that a person can act on.

Services raise them; `schema/kernel/errors.py` turns each into its union member or its
``extensions.code``.  No message carries a path, a host address, SQL or a class name.
"""

from dataclasses import dataclass, replace
from uuid import UUID

from app.domain import FieldErrorCode, LectureFailure


class DomainError(Exception):
    """Something that a client, a user or a source got wrong; never a fault of ours."""

    code = "INTERNAL_SERVER_ERROR"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One input field and what is wrong with it; path as in ``("input", "panoptoUrl")``."""

    path: tuple[str, ...]
    message: str
    code: FieldErrorCode


class InvalidInput(DomainError):
    """The input is well-formed but cannot be accepted."""

    code = "BAD_USER_INPUT"

    def __init__(self, *problems: FieldProblem) -> None:
        super().__init__(problems[0].message)
        self.problems = problems

    @classmethod
    def at(cls, field: str, message: str, code: FieldErrorCode) -> "InvalidInput":
        """Return the error for one field under ``input``."""
        return cls(FieldProblem(("input", field), message, code))

    def within(self, field: str, number: int) -> "InvalidInput":
        """Return the error as that of an item of the list in the field under ``input``."""
        return InvalidInput(
            *(
                replace(problem, path=("input", field, str(number), *problem.path[1:]))
                for problem in self.problems
            )
        )


class NotFound(DomainError):
    """The item does not exist, or the viewer may not know that it does."""

    code = "NOT_FOUND"

    def __init__(self, noun: str, item_id: str | UUID) -> None:
        super().__init__(f"There is no such {noun}.")
        self.item_id = str(item_id)


class Conflict(DomainError):
    """The item's state does not allow it."""

    code = "CONFLICT"


class RateLimited(DomainError):
    """Too many accepted requests in the window."""

    code = "RATE_LIMITED"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"Too many requests. Try again in {retry_after_seconds} s.")
        self.retry_after_seconds = retry_after_seconds


class Forbidden(DomainError):
    """The viewer is known but may not do this."""

    code = "FORBIDDEN"

    def __init__(self, message: str = "Only an administrator may do this.") -> None:
        super().__init__(message)


class Unauthenticated(DomainError):
    """There is no valid session token."""

    code = "UNAUTHENTICATED"

    def __init__(self, message: str = "A valid session token is required.") -> None:
        super().__init__(message)


class BadUserInput(DomainError):
    """An argument that no union has a member for: a malformed id, cursor or page size.

    ``path`` names the argument, and the place in it, as ``("ids", 2)``; empty where there is none.
    """

    code = "BAD_USER_INPUT"

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


class PayloadTooLarge(DomainError):
    """The body is larger than the service accepts (HTTP 413)."""

    code = "PAYLOAD_TOO_LARGE"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The body is larger than {limit_bytes} bytes.")
        self.limit_bytes = limit_bytes


class MalformedRequest(DomainError):
    """The request breaks its protocol: bad JSON, bad multipart (HTTP 400)."""

    code = "BAD_USER_INPUT"


class IngestFailed(DomainError):
    """A lecture's audio could not be had.

    ``failure`` is what clients switch on and the message what they show.  A transient failure is
    tried again (after ``retry_after_seconds`` where the source named it), a permanent one is not.
    """

    code = "INGEST_FAILED"

    def __init__(
        self,
        failure: LectureFailure,
        message: str,
        *,
        transient: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.transient = transient
        self.retry_after_seconds = retry_after_seconds


class NotReadyYet(DomainError):
    """The recording is live or still being encoded: ask again later; nothing has failed."""

    code = "NOT_READY"


class LeaseLost(DomainError):
    """This worker no longer holds the job, so it may change nothing more of it."""

    code = "LEASE_LOST"

    def __init__(self) -> None:
        super().__init__("The job is no longer held by this worker.")


class StorageError(DomainError):
    """The object store failed, whichever backend it is."""

    code = "STORAGE"


class ObjectNotFound(StorageError):
    """No object has this key."""

    def __init__(self) -> None:
        super().__init__("The stored object is missing.")


class InvalidKey(StorageError):
    """The key could leave the store, or is no key at all."""

    def __init__(self) -> None:
        super().__init__("The storage key is not valid.")


class StorageFull(StorageError):
    """The store has no room left (HTTP 507)."""

    def __init__(self) -> None:
        super().__init__("The storage is full.")


class ConfigurationError(DomainError):
    """A setting is wrong; the message is one line that names the variable."""

    code = "CONFIGURATION"
