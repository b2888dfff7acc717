"""Expected business errors as members of each mutation's union, and the map that makes them.

Services raise domain errors; Strawberry hands each to the handler whose type the field's union
has.  What no handler takes ends in ``errors[]``.
"""

import strawberry
from strawberry.types.field import StrawberryField

from app.domain import FieldErrorCode
from app.errors import Conflict, InvalidInput, NotFound, RateLimited
from app.schema.kernel.shapes import Error, expose_enum

expose_enum(
    FieldErrorCode,
    "What is wrong with an input field; more may come.",
    REQUIRED="It is empty.",
    TOO_LONG="It has more characters than it may.",
    TOO_SHORT="It has fewer characters than it must.",
    TOO_MANY="It has more items than it may.",
    TOO_LARGE="It has more bytes than it may.",
    MALFORMED="It is not written as it must be.",
    UNSUPPORTED="It is well written, and nothing that the service takes.",
    NOT_FOUND="It names nothing that there is.",
    QUOTA="It would exceed what the viewer may use.",
)


@strawberry.type
class FieldError:
    """One input field and what is wrong with it."""

    path: list[str] = strawberry.field(
        description="Path of the input field, as ['input', 'panoptoUrl']."
    )
    message: str = strawberry.field(description="What is wrong with it, for people.")
    code: FieldErrorCode = strawberry.field(description="The same, for programs.")


@strawberry.type
class InvalidInputError(Error):
    """The input is well-formed but cannot be accepted."""

    field_errors: list[FieldError] = strawberry.field(description="One or more.")

    @classmethod
    def of(cls, exception: InvalidInput) -> "InvalidInputError":
        """Return the error in its public shape."""
        problems = [
            FieldError(path=list(problem.path), message=problem.message, code=problem.code)
            for problem in exception.problems
        ]
        return cls(message=exception.message, field_errors=problems)


@strawberry.type
class NotFoundError(Error):
    """There is no such item, or the viewer may not know that there is."""

    missing_id: strawberry.ID = strawberry.field(
        description="Not called id: a normalising client would take the error for the thing itself."
    )

    @classmethod
    def of(cls, exception: NotFound) -> "NotFoundError":
        """Return the error in its public shape."""
        return cls(message=exception.message, missing_id=strawberry.ID(exception.item_id))


@strawberry.type
class ConflictError(Error):
    """The item's state does not allow it, as retrying a lecture that has not failed."""


@strawberry.type
class RateLimitedError(Error):
    """Too many accepted requests in the window."""

    retry_after_seconds: int = strawberry.field(description="When one is free again.")

    @classmethod
    def of(cls, exception: RateLimited) -> "RateLimitedError":
        """Return the error in its public shape."""
        retry_after_seconds = exception.retry_after_seconds
        return cls(message=exception.message, retry_after_seconds=retry_after_seconds)


class InvalidInputHandler(strawberry.ExceptionHandler[InvalidInput, InvalidInputError]):
    """`InvalidInput` to ``InvalidInputError``."""

    def handle(
        self, exception: InvalidInput, *, field: StrawberryField, info: strawberry.Info
    ) -> InvalidInputError:
        """Return the error in its public shape."""
        return InvalidInputError.of(exception)


class NotFoundHandler(strawberry.ExceptionHandler[NotFound, NotFoundError]):
    """`NotFound` to ``NotFoundError``."""

    def handle(
        self, exception: NotFound, *, field: StrawberryField, info: strawberry.Info
    ) -> NotFoundError:
        """Return the error in its public shape."""
        return NotFoundError.of(exception)


class ConflictHandler(strawberry.ExceptionHandler[Conflict, ConflictError]):
    """`Conflict` to ``ConflictError``."""

    def handle(
        self, exception: Conflict, *, field: StrawberryField, info: strawberry.Info
    ) -> ConflictError:
        """Return the error in its public shape."""
        return ConflictError(message=exception.message)


class RateLimitedHandler(strawberry.ExceptionHandler[RateLimited, RateLimitedError]):
    """`RateLimited` to ``RateLimitedError``."""

    def handle(
        self, exception: RateLimited, *, field: StrawberryField, info: strawberry.Info
    ) -> RateLimitedError:
        """Return the error in its public shape."""
        return RateLimitedError.of(exception)


ERROR_MAP = (InvalidInputHandler(), NotFoundHandler(), ConflictHandler(), RateLimitedHandler())
